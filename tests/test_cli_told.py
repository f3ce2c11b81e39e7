"""What `ssi morph` and `ssi edit` say and show beside their pictures."""

import pytest
import torch
from commands import FEW, ssi

from ssi_core import save_image

ANGLE = ["--frames", "4", "--pace", "angle"]


@pytest.fixture
def stripes(tmp_path):
    """A picture that no demo model knows."""
    image = torch.ones(1, 3, 32, 32)
    image[..., ::2] = -1
    save_image(image, tmp_path / "stripes.png")
    return tmp_path / "stripes.png"


def test_a_morph_says_which_frames_to_distrust_and_how_many_there_are(capsys, pictures, stripes, tmp_path):
    code, out, err = ssi(capsys, "morph", pictures[0], stripes, "--back", *ANGLE, "--out", tmp_path, *FEW)
    assert code == 0 and "1 of 2 noises are not Gaussian: the frames near them may go wrong" in err
    assert " 6 frames; written to" in out
    code, out, err = ssi(capsys, "morph", *pictures, *ANGLE, "--out", tmp_path, *FEW)
    assert code == 0 and "not Gaussian" not in err
    assert " 4 frames; written to" in out
