"""The input of the network's first convolution, as the settings define it."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from vggdist.collectives.world import World
from vggdist.config.load import load
from vggdist.data.dataset import load as load_data
from vggdist.models.inputs import Normalize
from vggdist.training.inputs import model_spec


@pytest.mark.parametrize(("choice", "white"), [("none", 1.0), ("raw", 255.0)])
def test_pixels_without_normalisation_have_their_scale(choice: str, white: float) -> None:
    config = load("train", ["--data.name", "synthetic", "--data.image_size", "32", "--augment.normalize", choice])
    spec = model_spec(config, load_data(config.data, 0), World())
    layer = Normalize(spec.mean, spec.std)
    layer.initialize()
    images = mx.nd.array(np.repeat([[[[0], [255]]]], spec.channels, axis=3), dtype="uint8")
    expected = np.broadcast_to(np.array([0, white], np.float32), (1, spec.channels, 1, 2))
    np.testing.assert_allclose(layer(images).asnumpy(), expected, rtol=1e-6)
