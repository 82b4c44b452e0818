"""Which images form a batch, for any number of images, batch size and number of processes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.sampling import EpochBatches, StepPart, derive_seed, plan_steps
from utils.config.stages import Stage, parse_share
from utils.errors import InputError


@st.composite
def splits(draw):
    """Draw numbers of images and processes, and a batch size that can be split over them."""
    world = draw(st.integers(1, 3))
    return draw(st.integers(2 * world, 70)), world * draw(st.integers(1, 12)), world


def names(count):
    return [f"image{i}" for i in range(count)]


def epoch_of(count, batch_size, seed_parts=(1, 0, 1), epoch=0, world=1, rank=0):
    """Return the batches of an epoch without their padding."""
    batches = EpochBatches(names(count), batch_size, seed_parts, rank, world)
    batches.set_epoch(epoch)
    paddings = zip(batches, batches.padding(), strict=True)
    return [batch[: len(batch) - padding] for batch, padding in paddings]


def order_and_seeds(**settings):
    flat = [item for batch in epoch_of(40, 8, **settings) for item in batch]
    return [index for index, _ in flat], dict(flat)


@given(splits())
def test_every_image_comes_once_in_an_epoch(split):
    count, batch_size, world = split
    seen = [
        index
        for rank in range(world)
        for batch in epoch_of(count, batch_size, world=world, rank=rank)
        for index, _ in batch
    ]
    assert sorted(seen) == list(range(count))


@given(splits())
def test_every_process_has_two_images_of_every_batch_unless_its_share_is_one(split):
    """And always at least one: the other processes would wait for it."""
    count, batch_size, world = split
    minimum = min(2, batch_size // world)
    for rank in range(world):
        batches = EpochBatches(names(count), batch_size, (1,), rank, world)
        for batch, padding in zip(batches, batches.padding(), strict=True):
            assert minimum <= len(batch) <= batch_size // world
            assert len(set(batch)) == len(batch)
            assert 0 <= padding <= minimum
            assert padding == 0 or len(batch) == minimum


@given(splits())
def test_padding_is_used_only_where_no_batches_can_do_without_it(split):
    """Against all ways to deal the images to batches of two per process at least."""
    count, batch_size, world = split
    per_process = min(2, batch_size // world)
    dealt = any(
        n * per_process * world <= count <= n * batch_size for n in range(1, count // world + 1)
    )
    paddings = [
        EpochBatches(names(count), batch_size, (1,), rank, world).padding() for rank in range(world)
    ]
    assert any(map(any, paddings)) == (not dealt)


@given(splits())
def test_sizes_count_the_images_of_all_processes(split):
    count, batch_size, world = split
    parts = [epoch_of(count, batch_size, world=world, rank=rank) for rank in range(world)]
    sizes = EpochBatches(names(count), batch_size, (1,), 0, world).sizes()
    assert [sum(map(len, batch)) for batch in zip(*parts, strict=True)] == sizes
    assert len(EpochBatches(names(count), batch_size, (1,), 0, world)) == len(sizes)
    assert max(sizes) <= batch_size
    assert len(sizes) == -(-count // batch_size)
    assert sizes == sorted(sizes, reverse=True)


@given(splits())
def test_a_batch_has_the_same_images_for_any_number_of_processes(split):
    count, batch_size, world = split
    parts = [epoch_of(count, batch_size, world=world, rank=rank) for rank in range(world)]
    together = [
        sorted(item for part in batch for item in part) for batch in zip(*parts, strict=True)
    ]
    single = epoch_of(count, batch_size)
    if [len(batch) for batch in single] == [len(batch) for batch in together]:
        assert [sorted(batch) for batch in single] == together


@pytest.mark.parametrize(
    ("count", "batch_size", "world", "sizes"),
    [
        (12, 4, 1, [4, 4, 4]),
        (14, 4, 1, [4, 4, 4, 2]),
        (13, 4, 1, [4, 4, 3, 2]),
        (9, 8, 1, [5, 4]),
        (5, 2, 1, [2, 2, 1]),
        (3, 20, 1, [3]),
        (4, 1, 1, [1, 1, 1, 1]),
        (17, 8, 2, [8, 5, 4]),
        (10, 3, 3, [3, 3, 3, 1]),
        (19, 3, 1, [3, 3, 3, 3, 3, 2, 2]),
        (37, 12, 4, [12, 9, 8, 8]),
        (15, 8, 4, [8, 7]),
        (9, 8, 4, [5, 4]),
    ],
)
def test_a_small_last_batch_is_balanced_with_batches_before(count, batch_size, world, sizes):
    assert EpochBatches(names(count), batch_size, (1,), 0, world).sizes() == sizes


def test_an_epoch_can_be_repeated():
    assert order_and_seeds(epoch=3) == order_and_seeds(epoch=3)


@pytest.mark.parametrize(
    "other",
    [
        {"epoch": 1},
        {"seed_parts": (2, 0, 1)},
        {"seed_parts": (1, 1, 1)},
        {"seed_parts": (1, 0, 2)},
        {"seed_parts": (0, 1, 1)},
    ],
    ids=["epoch", "seed", "fold", "stage", "swapped"],
)
def test_order_and_every_seed_depend_on(other):
    order, seeds = order_and_seeds()
    other_order, other_seeds = order_and_seeds(**other)
    assert order != other_order
    assert not set(seeds.values()) & set(other_seeds.values())


def test_the_seed_of_an_image_depends_only_on_its_id():
    """Not on the other images, its position among them, the batch size or the process."""
    seeds = {f"image{i}": seed for i, seed in order_and_seeds()[1].items()}
    assert len(set(seeds.values())) == 40
    backwards = EpochBatches(names(40)[::-1], 6, (1, 0, 1))
    fewer = EpochBatches(names(40)[5:17], 4, (1, 0, 1), rank=1, world_size=2)
    for batches in (backwards, fewer):
        assert all(seed == seeds[batches.ids[i]] for batch in batches for i, seed in batch)


def test_seeds_are_63_bit_integers_and_the_same_on_every_machine():
    assert derive_seed(1, 0, 2, "image") == 9056906127045787933
    assert all(0 <= derive_seed(i, "a") < 2**63 for i in range(100))
    assert derive_seed(1, 2) != derive_seed(2, 1)
    assert derive_seed("ab", "c") != derive_seed("a", "bc")


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(1, 12))
def test_steps_have_every_batch_and_weight_every_image_equally(sizes, batches_per_step):
    parts = plan_steps(sizes, batches_per_step)
    assert len(parts) == len(sizes)
    assert parts[-1].last  # the last, smaller step is not lost
    steps, start = [], 0
    for end, part in enumerate(parts, start=1):
        if part.last:
            steps.append((sizes[start:end], parts[start:end]))
            start = end
    assert all(len(group) == batches_per_step for group, _ in steps[:-1])
    for group, group_parts in steps:
        assert {part.step_images for part in group_parts} == {sum(group)}
        weights = [n / part.step_images for n, part in zip(group, group_parts, strict=True)]
        assert sum(weights) == pytest.approx(1)


def test_the_last_smaller_step_has_its_true_size():
    assert plan_steps([4, 4, 4, 3, 2], 2) == [
        StepPart(8, False),
        StepPart(8, True),
        StepPart(7, False),
        StepPart(7, True),
        StepPart(2, True),
    ]


def shared(epoch, share, positives=6, others=30, seed_parts=(1, 0, 1), world=1, rank=0, batch=4):
    ids = [f"p{i}" for i in range(positives)] + [f"n{i}" for i in range(others)]
    positive = frozenset(ids[:positives])
    batches = EpochBatches(ids, batch, seed_parts, rank, world, positive, lambda _: share)
    batches.set_epoch(epoch)
    return batches


def drawn(batches):
    parts = zip(batches, batches.padding(), strict=True)
    return [batches.ids[i] for batch, padding in parts for i, _ in batch[: len(batch) - padding]]


@given(
    st.integers(1, 20), st.integers(0, 60), st.floats(0.05, 1), st.integers(1, 3), st.integers(1, 5)
)
def test_a_share_takes_every_positive_once_and_as_many_empty_images_as_it_allows(
    positives, others, share, world, size
):
    ranks = [
        shared(2, share, positives, others, world=world, rank=rank, batch=world * size)
        for rank in range(world)
    ]
    if ranks[0].images(2) < 2 * world:
        return  # refused before training
    names = [name for batches in ranks for name in drawn(batches)]  # without padding
    assert len(names) == len(set(names)) == ranks[0].images(2) == sum(ranks[0].sizes())
    found = [name for name in names if name[0] == "p"]
    assert len(found) == positives
    wanted = positives / share - positives
    assert abs(min(wanted, others) - (len(names) - positives)) <= 0.5 + 1e-9


def test_empty_images_are_drawn_anew_from_all_of_them():
    epochs = [frozenset(drawn(shared(epoch, 0.5))) for epoch in range(40)]
    assert len(set(epochs)) > 35
    counts = [sum(f"n{i}" in names for names in epochs) for i in range(30)]
    assert min(counts) > 0
    assert max(counts) < 20  # 6 of 30 are drawn, 8 times in 40 on average


@pytest.mark.parametrize("other", [{"seed_parts": (2, 0, 1)}, {"seed_parts": (1, 0, 2)}])
def test_the_draw_depends_on_seed_and_stage_and_can_be_repeated(other):
    assert drawn(shared(3, 0.3)) == drawn(shared(3, 0.3))
    assert set(drawn(shared(3, 0.3))) != set(drawn(shared(3, 0.3, **other)))


def test_the_share_and_with_it_the_steps_can_change_with_the_epoch():
    stage = Stage(1, 64, 4, epochs=5, lr=1, positive_share=parse_share("0.8:0.4", "--share"))
    assert [stage.positive_share_at(e) for e in range(5)] == pytest.approx(
        [0.8, 0.7, 0.6, 0.5, 0.4]
    )
    ids = [f"p{i}" for i in range(12)] + [f"n{i}" for i in range(90)]
    batches = EpochBatches(
        ids, 4, (1, 0, 1), positive=frozenset(ids[:12]), positive_share_at=stage.positive_share_at
    )
    for epoch, images in enumerate((15, 17, 20, 24, 30)):
        batches.set_epoch(epoch)
        assert batches.images(epoch) == sum(batches.sizes()) == len(drawn(batches)) == images
        assert len(batches) == len(batches.sizes(epoch))


def test_without_a_share_positives_make_no_difference():
    assert drawn(shared(1, None)) == [
        f"p{i}" if i < 6 else f"n{i - 6}" for b in epoch_of(36, 4, epoch=1) for i, _ in b
    ]


@pytest.mark.parametrize(
    ("text", "shares"), [(0.5, (0.5, 0.5)), ("0.8:0.4", (0.8, 0.4)), (1, (1, 1))]
)
def test_shares_are_parsed(text, shares):
    assert parse_share(text, "--positive_share") == shares


@pytest.mark.parametrize("text", ["", "a", "0.5:", "0.5:0.4:0.3", 0, "0:0.5", 1.5, -1, "nan"])
def test_invalid_shares_are_refused(text):
    with pytest.raises(InputError, match=r"--positive_share .*: give a share above 0"):
        parse_share(text, "--positive_share")
