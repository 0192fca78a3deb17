"""Features of a labelled set's images by a frozen backbone: computed once, kept on disk, checked whenever opened."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cache as once
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.verify import Proof, joined, plain
from transfer.classification.feature_cache import DIGEST, Rows, Store, key
from transfer.classification.trunk import POOLINGS, Precision, Trunk, width
from transfer.classification.views import WholeView
from transfer.datasets.labels.labelled import Images, LabelledImages
from transfer.runtime.conditions import observed
from transfer.runtime.errors import DataError, UserError
from transfer.runtime.loader import Loader
from transfer.runtime.progress import Bar
from transfer.runtime.world import World

SCHEMA = 1  # of what is stored: raised whenever equal identities would no longer mean equal features
NAMED = 50  # unreadable images that a message names

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Features:
    """Features of a set, row i of image i.

    Attributes:
        arrays: pooling → float32 [n, width], mapped from disk and read-only; NaN in rows of unreadable images.
        digests: uint8 [n, 16], BLAKE2b of each image as it is stored: equal for duplicates, within and across sets.
        usable: bool [n], False for unreadable images.
        unreadable: their names.
        proof: of the network that computed them, before it did.
        origin: "computed", "cached" (the proof is the one kept beside them) or "partly cached".
        remarks: in what the conditions differ under which some of them were computed, by an earlier run.
    """

    arrays: Mapping[str, NDArray[np.float32]]
    digests: NDArray[np.uint8]
    usable: NDArray[np.bool_]
    unreadable: tuple[str, ...]
    proof: Proof
    origin: str
    remarks: tuple[str, ...] = ()

    def rows(self, pooling: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(float32 [m, width], int64 [m]): the features of the usable images, and which images these are.

        Still mapped from disk if all images are usable, a copy in memory otherwise.
        """
        places = np.flatnonzero(self.usable).astype(np.int64)
        array = self.arrays[pooling]
        return (array if len(places) == len(array) else array[places]), places


def identity(backbone: Backbone, images: LabelledImages, view: WholeView, precision: Precision) -> dict[str, object]:
    """All that features depend on, but for pooling and rounding: what a cache is found by and compared with.

    The fingerprint is over sorted names; rows have an order, so the order of names is part of it too.
    """
    order = hashlib.sha256()
    for index in range(len(images)):
        order.update(images.images.name(index).encode("utf-8", "surrogateescape") + b"\0")
    return {
        "schema": SCHEMA,
        "checkpoint": {
            "sha256": backbone.source.sha256,
            "branch": backbone.source.branch,
            "arch": backbone.arch,
            "stride_in_1x1": backbone.stride_in_1x1,
            "input": asdict(backbone.input),
        },
        "images": images.fingerprint() | {"order": order.hexdigest()},
        "view": {"kind": type(view).__name__} | asdict(view),
        "precision": precision,
    }


COMPUTED = "the network that computed the features, before it did"


def trunk_once(
    backbone: Backbone, poolings: tuple[str, ...], device: torch.device, precision: Precision
) -> Callable[[], Trunk]:
    """Gives a frozen network when one is needed, always the same: it is built and proved once for all splits."""
    return once(lambda: Trunk(backbone, poolings, device, precision))


def extract(
    backbone: Backbone,
    images: LabelledImages,
    view: WholeView,
    poolings: tuple[str, ...],
    *,
    cache: Path,
    device: torch.device,
    workers: int = 0,
    precision: Precision = "fp32",
    unreadable: int = 0,
    world: World | None = None,
    batch: int = 64,
    network: Callable[[], Trunk] | None = None,
) -> Features:
    """Features of all images under one view, several poolings in one pass; from the cache what is there and whole.

    A killed extraction goes on where it was, and on a CPU ends with the same bytes (with equal `batch` and thread
    count). Processes of one world share the chunks of images, and all get the whole; a process that finds another one
    at the same features waits for it.

    Args:
        cache: folder of caches, one subfolder for each pooling of each (checkpoint, images, view, precision).
        workers: processes that decode; 0 decodes in this one.
        unreadable: images that may be left out because they cannot be read.
        batch: images at once; changes nothing but rounding.
        network: gives the frozen network of these weights, poolings, device and precision, for several sets to share.

    Raises:
        EngineError: the network that is to compute is not the checkpoint's.
        DataError: more images than `unreadable` cannot be read.
        UserError: features that are not finite; a folder that belongs to something else or cannot be written; an
            unknown pooling or precision.
    """
    world = world or World()
    with ExitStack() as held:
        # Only the leader looks at files, and holds the locks for all.
        begin = partial(_opened, backbone, images, view, poolings, precision, cache, _conditions(device, batch), held)
        stores: dict[str, Store] = world.collect(world.together(begin if world.leads else dict))[0]
        work = _Extraction(images, view, stores, world, unreadable)
        todo = work.missing()
        if todo:
            trunk = (network or trunk_once(backbone, poolings, device, precision))()
            world.together(partial(work.vouch, trunk))
            work.run(work.computed(trunk, todo[world.rank :: world.size], workers, batch), len(todo))
        world.together(work.finish if world.leads else bool)
    return work.features(computed=len(todo))


def _conditions(device: torch.device, batch: int) -> dict[str, object]:
    """What may change the last bits of features: kept beside them, not part of what they are found by."""
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    return versions | observed(device).plain() | {"device": device.type, "batch": batch}


def _opened(
    backbone: Backbone,
    images: LabelledImages,
    view: WholeView,
    poolings: Sequence[str],
    precision: Precision,
    cache: Path,
    conditions: Mapping[str, object],
    held: ExitStack,
) -> dict[str, Store]:
    """The locked and checked folder of each pooling."""
    if not poolings:
        raise UserError("no pooling is given", todo=f"choose at least one of {', '.join(POOLINGS)}")
    widths = {pooling: width(backbone.arch, pooling) for pooling in poolings}
    what = identity(backbone, images, view, precision)
    identities = {pooling: what | {"pooling": pooling} for pooling in poolings}
    stores = {
        pooling: Store(cache / key(identities[pooling]), len(images), widths[pooling], backbone.weights)
        for pooling in poolings
    }
    for store in sorted(stores.values(), key=lambda each: each.folder):  # in one order, or two could wait for ever
        held.enter_context(store.alone())
    for pooling, store in stores.items():
        store.open(identities[pooling], conditions)
    return stores


class _Batch(NamedTuple):
    """Rows of the set; pixels uint8 [k, 3, crop, crop] of the k readable ones; digests uint8 [n, 16] of all."""

    rows: list[int]
    pixels: Tensor
    digests: Tensor
    unreadable: dict[int, str]


class _Viewed(Dataset["tuple[int, bytes, Tensor | str]"]):
    """Row → (row, digest, view); instead of the view the reason why there is none: an error raised in a worker would
    arrive as a traceback."""

    def __init__(self, images: Images, view: WholeView) -> None:
        self.images, self.view = images, view

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[int, bytes, Tensor | str]:
        digest = bytes(DIGEST)
        try:
            digest = hashlib.blake2b(self.images.content(row), digest_size=DIGEST).digest()
            return row, digest, self.view(self.images.read(row))
        except DataError as error:
            return row, digest, error.found or error.what


def _joined(items: Sequence[tuple[int, bytes, Tensor | str]], crop: int) -> _Batch:
    pixels = [seen for _, _, seen in items if isinstance(seen, Tensor)]
    return _Batch(
        [row for row, _, _ in items],
        torch.stack(pixels) if pixels else torch.empty(0, 3, crop, crop, dtype=torch.uint8),
        torch.from_numpy(
            np.frombuffer(b"".join(digest for _, digest, _ in items), np.uint8).reshape(-1, DIGEST).copy()
        ),
        {row: seen for row, _, seen in items if isinstance(seen, str)},
    )


class _Computed(NamedTuple):
    """A finished chunk: pooling → float32 [rows, width], uint8 [rows, 16], row of the set → why it is unreadable."""

    rows: Rows
    features: dict[str, NDArray[np.float32]]
    digests: NDArray[np.uint8]
    unreadable: dict[int, str]


@dataclass(frozen=True)
class _Extraction:
    """One set's features in the making.

    Attributes:
        budget: unreadable images that may be left out.
        problems: row → why it is unreadable, of all chunks known to all processes; grows.
    """

    images: LabelledImages
    view: WholeView
    stores: Mapping[str, Store]
    world: World
    budget: int
    problems: dict[int, str] = field(default_factory=dict)

    def missing(self) -> list[Rows]:
        """Chunks that some pooling lacks; the problems of the others are taken note of.

        Raises:
            DataError: there are too many of them.
        """
        for store in self.stores.values():
            for chunk in store.finished.values():
                self.problems.update(chunk.unreadable)
        self._refuse_unreadable()
        chunks = next(iter(self.stores.values())).chunks()
        todo = [rows for rows in chunks if any(rows not in store.finished for store in self.stores.values())]
        if self.world.leads:
            logger.info(f"features of {self.images.name}: {len(chunks) - len(todo)} of {len(chunks)} chunks are cached")
        return todo

    def vouch(self, trunk: Trunk) -> None:
        """Prove the network that is about to compute, and keep the proof beside the features."""
        proof = plain(trunk.proof, COMPUTED)
        for store in self.stores.values():
            if len(store.finished) < len(store.chunks()):
                store.vouch(proof, self.world.leads)

    def run(self, mine: Iterator[_Computed], count: int) -> None:
        """Compute and keep `count` chunks, of which the processes take turns.

        After each turn all know of each other's errors and unreadable images, and stop together.
        """
        for _ in range(-(-count // self.world.size)):
            computed = self.world.together(partial(next, mine, None))
            for found in self.world.collect(computed.unreadable if computed else {}):
                self.problems.update(found)
            self._refuse_unreadable()
            self.world.together(partial(self._keep, computed))

    def computed(self, trunk: Trunk, chunks: Sequence[Rows], workers: int, batch: int) -> Iterator[_Computed]:
        """The chunks one after the other. Batches never reach across chunks: a chunk's features are the same whichever
        others are done in the same run.
        """
        batches = [
            list(range(start, min(start + batch, stop)))
            for first, stop in chunks
            for start in range(first, stop, batch)
        ]
        loader: Loader[Any] = Loader(
            _Viewed(self.images.images, self.view),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=partial(_joined, crop=self.view.crop),
            pin_memory=trunk.device.type == "cuda",
            generator=torch.Generator(),  # the loader draws a seed: not from the generator of the caller
        )
        total = sum(stop - start for start, stop in chunks)
        with Bar(total, unit="im", what=f"features of {self.images.name}", shown=self.world.leads) as bar:
            left = iter(loader)
            for rows in chunks:
                parts = []
                for _ in range(rows[0], rows[1], batch):
                    its: _Batch = next(left)
                    pooled = trunk(its.pixels) if len(its.pixels) else {}
                    parts.append((its._replace(pixels=its.pixels[:0].clone()), pooled))  # or a chunk of them is held
                    bar.update(len(its.rows))
                yield self._assembled(rows, parts)

    def _assembled(self, rows: Rows, parts: Sequence[tuple[_Batch, Mapping[str, Tensor]]]) -> _Computed:
        """A chunk out of its batches; only now does the processor wait for the GPU."""
        unreadable = {row: reason for batch, _ in parts for row, reason in batch.unreadable.items()}
        readable = np.array([row not in unreadable for row in range(*rows)])
        features = {}
        for pooling, store in self.stores.items():
            array = np.full((len(readable), store.width), np.nan, np.float32)
            if readable.any():
                array[readable] = torch.cat([pooled[pooling] for _, pooled in parts if pooled]).cpu().numpy()
            self._refuse_infinite(rows, pooling, readable & ~np.isfinite(array).all(1))
            features[pooling] = array
        return _Computed(rows, features, torch.cat([batch.digests for batch, _ in parts]).numpy(), unreadable)

    def _keep(self, computed: _Computed | None) -> None:
        if computed is None:
            return
        for pooling, store in self.stores.items():
            if computed.rows not in store.finished:
                features = computed.features[pooling]
                store.keep(computed.rows, features, computed.digests, computed.unreadable, self.world.rank)

    def finish(self) -> bool:
        """Mark the folders as done, and say what was left out."""
        names = {row: self.images.images.name(row) for row in sorted(self.problems)}
        for store in self.stores.values():
            store.finish(names)
        if names:
            logger.warning(
                f"{self.images.name}: {len(names)} unreadable images are left out ({self._listed()}); "
                f"to try them again, remove {', '.join(str(store.folder) for store in self.stores.values())}"
            )
        return True

    def features(self, computed: int) -> Features:
        """What is now on disk, of which `computed` chunks were not there before."""
        usable = np.ones(len(self.images), dtype=np.bool_)
        usable[list(self.problems)] = False
        store = next(iter(self.stores.values()))
        return Features(
            {pooling: each.array() for pooling, each in self.stores.items()},
            store.all_digests(),
            usable,
            tuple(self.images.images.name(row) for row in sorted(self.problems)),
            joined([proof for store in self.stores.values() for proof in store.proofs]),
            "cached" if not computed else "computed" if computed == len(store.chunks()) else "partly cached",
            tuple(dict.fromkeys(line for store in self.stores.values() for line in store.remarks)),
        )

    def _listed(self, separator: str = "; ") -> str:
        lines = [f"{self.images.images.name(row)}: {self.problems[row]}" for row in sorted(self.problems)]
        return separator.join(lines[:NAMED] + (["…"] if len(lines) > NAMED else []))

    def _refuse_unreadable(self) -> None:
        if len(self.problems) > self.budget:
            raise DataError(
                f"{len(self.problems)} images of {self.images.name} cannot be read, {self.budget} may be left out",
                found=self._listed("\n"),
                todo=f"replace them, or leave them out with --unreadable {len(self.problems)} "
                "(more, if there are others among the images that were not yet looked at)",
            )

    def _refuse_infinite(self, rows: Rows, pooling: str, bad: NDArray[np.bool_]) -> None:
        if bad.any():
            names = [self.images.images.name(rows[0] + int(place)) for place in np.flatnonzero(bad)[:5]]
            raise UserError(
                f"features of {int(bad.sum())} images of {self.images.name} are not finite",
                found=f"NaN or infinity in {pooling!r} of rows {rows[0]} to {rows[1] - 1}: {', '.join(names)}",
                todo="look at the checkpoint's BatchNorm statistics and scales (`python -m transfer inspect FILE`), "
                "and whether its input is normalised as it was in training",
            )
