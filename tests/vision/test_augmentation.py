import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from spikesep.vision.data.augmentation import Augmentation


def drawn(n, augmentation, seed):
    """Repeat the random numbers of `moved`: rows, columns and whether to mirror."""
    torch.manual_seed(seed)
    limits = (2 * augmentation.shift + 1, 2 * augmentation.shift + 1, 1 + augmentation.mirrors)
    return [torch.randint(limit, (n, 1)).flatten().tolist() for limit in limits]


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(2, 7), st.integers(2, 7),
    st.integers(0, 3), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_images_are_moved_as_by_a_loop_over_images(
    n, channels, height, width, shift, mirrors, seed
):
    augmentation = Augmentation(shift, mirrors)
    images = torch.randint(0, 256, (n, channels, height, width)).to(torch.uint8)
    tops, lefts, flips = drawn(n, augmentation, seed)
    torch.manual_seed(seed)
    found = augmentation.moved(images)
    padded = F.pad(images, [shift] * 4)
    for k in range(n):
        crop = padded[k, :, tops[k] : tops[k] + height, lefts[k] : lefts[k] + width]
        assert torch.equal(found[k], crop.flip(-1) if flips[k] else crop)
    assert found.dtype == torch.uint8
    assert found.is_contiguous(memory_format=torch.channels_last)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(3, 9), st.integers(0, 6), st.integers(0, 99))
def test_erased_squares_are_those_of_a_loop_over_pixels(n, size, side, seed):
    x = torch.ones(n, 2, size, size + 1)
    torch.manual_seed(seed)
    rows, columns = (torch.randint(m, (n, 1)) for m in (size, size + 1)) if side else ([], [])
    torch.manual_seed(seed)
    found = Augmentation(cutout=side).erased(x)
    for k in range(n):
        for i in range(size):
            for j in range(size + 1):
                inside = side and all(
                    -(side // 2) <= at - int(center[k]) < (side + 1) // 2
                    for at, center in ((i, rows), (j, columns))
                )
                assert found[k, :, i, j].tolist() == [0.0 if inside else 1.0] * 2


def test_half_of_the_images_are_mirrored_and_all_shifts_occur():
    ramp = torch.arange(8).expand(4000, 1, 1, 8).to(torch.uint8) + 1
    torch.manual_seed(0)
    found = Augmentation(1, mirrors=True).moved(ramp.expand(-1, -1, 8, -1))[:, 0, 4].long()
    mirrored = found[:, 3] > found[:, 4]
    assert 0.45 < float(mirrored.double().mean()) < 0.55
    assert set(found[~mirrored, 3].tolist()) == {3, 4, 5}
