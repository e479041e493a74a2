"""Print a network's blocks, and what each rank sends for them: ``python -m vggdist.summary --model.name vgg16``. No data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict

from vggdist.config.errors import RequestError
from vggdist.config.load import load_as
from vggdist.config.plan import PlanRequest
from vggdist.data.outline import outline
from vggdist.data.sampler import global_batch_size
from vggdist.models.layers import describe, summary_table
from vggdist.training.exchange import sent_by_layer


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; a folder of images stands for ImageNet's 224 px and 1,000 classes."""
    try:
        request = load_as(PlanRequest, "summary", sys.argv[1:] if arguments is None else arguments)
        train, ranks = request.train, request.plan.ranks
        samples = global_batch_size(train.batch_size, train.global_batch_size, ranks, train.accumulation) // ranks
        layers = describe(request.model, **asdict(outline(request.data)))
        print(summary_table(layers, sent_by_layer(train, ranks, samples)))
        print(f"sent: by each of {ranks} ranks with {samples} samples, in a step (--plan.ranks, --train.batch_size)")
    except RequestError as error:
        print(f"vggdist: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
