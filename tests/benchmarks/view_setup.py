"""What bench_views.py and kornia_views.py agree on; imports nothing of the project or of its peers."""

from __future__ import annotations

from dataclasses import dataclass

JITTER = (0.4, 0.4, 0.2, 0.1)  # VICReg's, as pretrain.views has it


@dataclass(frozen=True)
class ViewSetup:
    """A size of views.

    Attributes:
        side: pixels of a view.
        batch: views worked on together.
        device: where batches are.
        threads: of PyTorch.
    """

    side: int
    batch: int
    device: str = "cpu"
    threads: int = 1

    @property
    def kernel(self) -> int:
        """Side of the peers' blur kernel: 23 at 224 pixels, odd."""
        return max(3, int(23 * self.side / 224) // 2 * 2 + 1)

    @property
    def sigma(self) -> tuple[float, float]:
        """Pixels of a view: 0.1 to 2 at 224."""
        return 0.1 * self.side / 224, 2.0 * self.side / 224
