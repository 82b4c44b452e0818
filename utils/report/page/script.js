"use strict";

// Thresholds: the same sums as utils/postprocessing, over the counts of every image.

const SVG = "http://www.w3.org/2000/svg";

async function unpack(rules) {
  const bytes = Uint8Array.from(atob(rules.data), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const n = rules.images, t = rules.thresholds.length, g = rules.top_thresholds.length;
  const counts = new Uint32Array(buffer, 0, n * (1 + 2 * t));
  const passes = new Uint8Array(buffer, 4 * n * (1 + 2 * t));
  return {
    truth: counts.subarray(0, n),
    area: (k) => counts.subarray(n * (1 + k), n * (2 + k)),
    inside: (k) => counts.subarray(n * (1 + t + k), n * (2 + t + k)),
    areasPassed: (k) => passes.subarray(n * k, n * (k + 1)),
    presencesPassed: passes.subarray(n * g, n * (g + 1)),
  };
}

// Scores of the rule at these positions of the sliders.
function score(data, at) {
  const area = data.area(at.threshold), inside = data.inside(at.threshold);
  const reached = data.areasPassed(at.top_threshold);
  let positives = 0, dice = 0, dicePositive = 0, found = 0, kept = 0;
  const images = data.truth.length;
  for (let i = 0; i < images; i++) {
    const truth = data.truth[i];
    const passed = reached[i] > at.min_area && data.presencesPassed[i] > at.presence;
    const mask = passed ? area[i] : 0;
    // Both empty is a Dice of 1.
    const own = mask + truth === 0 ? 1 : (2 * (passed ? inside[i] : 0)) / (mask + truth);
    dice += own;
    if (truth > 0) {
      positives += 1;
      dicePositive += own;
      found += mask > 0;
    } else {
      kept += mask === 0;
    }
  }
  const empties = images - positives;
  return {
    dice: dice / images,
    dice_positive: dicePositive / positives,
    sensitivity: found / positives,
    specificity: kept / empties,
    masks: found + empties - kept,
    baseline: empties / images,
  };
}

function text(name, value) {
  if (Number.isNaN(value)) return "-";
  return name === "masks" ? value.toLocaleString("en") : value.toFixed(4);
}

function change(name, value, chosen) {
  const difference = value - chosen;
  const shown = text(name, Math.abs(difference));
  if (!(Number(shown.replaceAll(",", "")) > 0)) return "as chosen";
  return (difference > 0 ? "+" : "-") + shown;
}

async function explore(box) {
  const rules = JSON.parse(document.getElementById(box.dataset.rules).textContent);
  const data = await unpack(rules);
  const inputs = [...box.querySelectorAll("input[type=range]")];
  const values = {
    threshold: rules.thresholds, top_threshold: rules.top_thresholds,
    min_area: rules.min_areas, presence: rules.presence_thresholds,
  };
  const chosen = score(data, rules.chosen);
  const draw = chart(box.querySelector("svg"), rules, data);

  function update() {
    const at = { ...rules.chosen };
    for (const input of inputs) {
      at[input.name] = Number(input.value);
      const value = values[input.name][at[input.name]].toLocaleString("en", { maximumFractionDigits: 4 });
      input.setAttribute("aria-valuetext", value + input.dataset.unit);
      input.closest("label").querySelector("output").textContent = value + input.dataset.unit;
    }
    const now = score(data, at);
    for (const output of box.querySelectorAll("[data-score]")) {
      output.textContent = text(output.dataset.score, now[output.dataset.score]);
    }
    for (const note of box.querySelectorAll("[data-change]")) {
      note.textContent = change(note.dataset.change, now[note.dataset.change], chosen[note.dataset.change]);
    }
    draw(at, now);
  }

  box.querySelector(".reset").addEventListener("click", () => {
    for (const input of inputs) input.value = rules.chosen[input.name];
    update();
  });
  for (const input of inputs) input.addEventListener("input", update);
  update();
  box.dataset.ready = "true";
}

// Dice over the threshold, with the other sliders as they are.
function chart(svg, rules, data) {
  const live = document.createElementNS(SVG, "g");
  svg.append(live);
  const { width, height } = svg.viewBox.baseVal, m = rules.margins;
  const x = (value) => (m.left + value * (width - m.left - m.right)).toFixed(1);
  const y = (value) => (m.top + (1 - value) * (height - m.top - m.bottom)).toFixed(1);

  function add(tag, kind, attributes) {
    const mark = document.createElementNS(SVG, tag);
    mark.setAttribute("class", kind);
    for (const [name, value] of Object.entries(attributes)) mark.setAttribute(name, value);
    live.append(mark);
  }

  return (at, now) => {
    live.replaceChildren();
    const scores = rules.thresholds.map((_, k) => score(data, { ...at, threshold: k }));
    add("path", "rule", { d: `M${x(0)},${y(now.baseline)}H${x(1)}` });
    const chosen = rules.thresholds[rules.chosen.threshold];
    add("path", "line chosen dashed", { d: `M${x(chosen)},${y(0)}V${y(1)}` });
    for (const [name, kind] of [["dice_positive", "fold2"], ["dice", "fold0"]]) {
      if (Number.isNaN(now[name])) continue;
      const points = scores.map((own, k) => `${x(rules.thresholds[k])},${y(own[name])}`);
      add("path", `line ${kind}`, { d: `M${points.join("L")}` });
      add("circle", `dot ${kind}`, { cx: x(rules.thresholds[at.threshold]), cy: y(now[name]), r: 5 });
    }
  };
}

// Plots of one group at a time.
function chooseGroups(select) {
  select.addEventListener("change", () => {
    for (const plots of select.closest("section").querySelectorAll(".plots")) {
      plots.hidden = plots.dataset.group !== select.value;
    }
  });
}

// Cases: outlines on and off, a larger picture, an id to paste elsewhere.
function switchOutlines(box) {
  box.addEventListener("change", () => {
    document.body.classList.toggle(`without-${box.dataset.show}`, !box.checked);
    for (const other of document.querySelectorAll(`[data-show=${box.dataset.show}]`)) {
      other.checked = box.checked;
    }
  });
}

function enlarge(button) {
  const dialog = document.getElementById("large");
  button.addEventListener("click", () => {
    dialog.querySelector(".stage").replaceChildren(button.querySelector("svg").cloneNode(true));
    dialog.querySelector(".id").textContent = button.closest(".case").querySelector(".id").textContent;
    dialog.showModal();
  });
}

function copyId(button) {
  button.addEventListener("click", async () => {
    const id = button.textContent;
    try {
      await navigator.clipboard.writeText(id);
    } catch {
      const field = document.createElement("textarea");
      field.value = id;
      button.after(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    button.textContent = "copied";
    setTimeout(() => { button.textContent = id; }, 900);
  });
}

const dialog = document.getElementById("large");
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.querySelector(".stage").addEventListener("click", () => dialog.close());
document.querySelectorAll(".explorer").forEach(explore);
document.querySelectorAll("select.group").forEach(chooseGroups);
document.querySelectorAll("[data-show]").forEach(switchOutlines);
document.querySelectorAll(".case .zoom").forEach(enlarge);
document.querySelectorAll("button.id").forEach(copyId);
