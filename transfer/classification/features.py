"""Features of a labelled set's images by a frozen backbone: computed once, kept on disk, checked whenever opened."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache as once
from functools import partial
from pathlib import Path
from shutil import disk_usage
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from transfer.checkpoints.backbone import Backbone
from transfer.checkpoints.families import family_of
from transfer.checkpoints.verify import Proof, joined, plain
from transfer.classification.feature_cache import DIGEST, Rows, Store, key
from transfer.classification.trunk import Trunk
from transfer.classification.views import Precision, WholeView
from transfer.datasets.labels.labelled import Images, LabelledImages
from transfer.runtime.conditions import observed
from transfer.runtime.errors import DataError, UserError
from transfer.runtime.interrupts import asked, leave, saves_when_asked
from transfer.runtime.loader import Loader
from transfer.runtime.progress import Bar
from transfer.runtime.world import World

SCHEMA = 1  # of what is stored: raised whenever equal identities would no longer mean equal features
NAMED = 50  # unreadable images that a message names

logger = logging.getLogger(__name__)

Kind = tuple[WholeView, str]  # a view and a pooling: what a folder of the cache holds of a set
Problems = dict[int, str]  # row of the set → why it cannot be read


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


def identity(backbone: Backbone, images: LabelledImages, precision: Precision) -> dict[str, object]:
    """All that features depend on, but for `of_kind` and rounding: what a cache is found by and compared with.

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
        "precision": precision,
    }


def of_kind(kind: Kind) -> dict[str, object]:
    """The part of an identity in which the folders of one set differ."""
    view, pooling = kind
    return {"view": {"kind": type(view).__name__} | asdict(view), "pooling": pooling}


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
    beside: Collection[Kind] = (),
) -> Features:
    """Features of all images under one view, several poolings in one pass; from the cache what is there and whole.

    What is asked for `beside` them goes into the cache in the same pass, of the same decoded images, byte by byte as if
    it were extracted alone. Nothing fails or waits for its sake: what cannot be extracted, is being filled by another
    process, or finds too little space or too many unreadable images is left out.

    A killed extraction goes on where it was, and on a CPU ends with the same bytes (with equal `batch` and thread
    count). Processes of one world share the chunks of images, and all get the whole; a process that finds another one
    at the same features waits for it.

    Args:
        cache: folder of caches, one subfolder for each pooling of each (checkpoint, images, view, precision).
        workers: processes that decode; 0 decodes in this one.
        unreadable: images that may be left out because they cannot be read.
        batch: images at once; changes nothing but rounding.
        network: gives the frozen network of these weights, device and precision, for several sets to share.
        beside: views and poolings that other runs will ask for.

    Raises:
        EngineError: the network that is to compute is not the checkpoint's.
        DataError: more images than `unreadable` cannot be read.
        UserError: features that are not finite; a folder that belongs to something else or cannot be written; an
            unknown pooling or precision.
    """
    world = world or World()
    with ExitStack() as held:
        # Only the leader looks at files, and holds the locks for all.
        own = tuple((view, pooling) for pooling in poolings)
        what, conditions = partial(identity, backbone, images, precision), _conditions(device, batch)
        begin = partial(_opened, backbone, len(images), own, beside, what, cache, conditions, held)
        stores: dict[Kind, Store] = world.collect(world.together(begin if world.leads else dict))[0]
        work = _Extraction(images, own, stores, world, unreadable)
        todo = work.missing()
        computed = sum(work.lacks_own(rows) for rows in todo)
        try:
            if todo:
                trunk = (network or trunk_once(backbone, poolings, device, precision))()
                world.together(partial(work.vouch, trunk))
                work.run(work.computed(trunk, todo[world.rank :: world.size], workers, batch), len(todo))
        except UserError as error:
            if computed:
                raise
            logger.debug(f"left to the runs that want it: {error}")
        world.together(work.finish if world.leads else bool)
        return work.features(computed)


def _conditions(device: torch.device, batch: int) -> dict[str, object]:
    """What may change the last bits of features: kept beside them, not part of what they are found by."""
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    return versions | observed(device).plain() | {"device": device.type, "batch": batch}


def _opened(
    backbone: Backbone,
    rows: int,
    own: Sequence[Kind],
    beside: Collection[Kind],
    shared: Callable[[], dict[str, object]],
    cache: Path,
    conditions: Mapping[str, object],
    held: ExitStack,
) -> dict[Kind, Store]:
    """The locked and checked folder of each kind: this run's own first, then those of `beside` that can be filled."""
    family = family_of(backbone.arch)
    if not own:
        names = family.poolings(backbone.arch)
        raise UserError("no pooling is given", todo=f"choose at least one of {', '.join(names)}")
    for view, pooling in own:
        family.demand_pooling(backbone.arch, pooling)
        family.demand(backbone.arch, (pooling,), view.crop, view.crop)
    widths = {kind: family.width(backbone.arch, kind[1]) for kind in own}
    what = shared()

    def folder(kind: Kind, wide: int) -> Store:
        return Store(cache / key(what | of_kind(kind)), rows, wide, backbone.weights)

    stores = {kind: folder(kind, wide) for kind, wide in widths.items()}
    for store in sorted(stores.values(), key=lambda each: each.folder):  # in one order, or two could wait for ever
        held.enter_context(store.alone())
    for kind, store in stores.items():
        store.open(what | of_kind(kind), conditions)
    left = disk_usage(cache).free - sum(store.size() for store in stores.values() if not store.complete)
    for kind in dict.fromkeys(beside):
        try:
            kind[0].check()
            family.demand_pooling(backbone.arch, kind[1])
            wide = family.width(backbone.arch, kind[1])
            family.demand(backbone.arch, (kind[1],), kind[0].crop, kind[0].crop)
            store = folder(kind, wide)
            if kind in stores or store.done.exists():  # whoever wants it looks whether it is whole
                continue
            if store.size() > left:
                raise UserError(f"too little space for {store.folder}")
            with ExitStack() as its:
                its.enter_context(store.alone(patience=0))  # who waits for nothing is waited for by nobody for ever
                store.open(what | of_kind(kind), conditions)
                held.enter_context(its.pop_all())
        except UserError as error:
            logger.debug(f"left to the run that wants it: {kind}: {error}")
            continue
        stores[kind], left = store, left - store.size()
    return stores


class _Batch(NamedTuple):
    """Rows of the set, and digests uint8 [n, 16] of all; view → pixels uint8 [k, 3, crop, crop] of the k readable ones,
    and its unreadable ones."""

    rows: list[int]
    digests: Tensor
    pixels: dict[WholeView, Tensor]
    unreadable: dict[WholeView, Problems]


_Seen = tuple[int, bytes, "dict[WholeView, Tensor | str]"]


class _Viewed(Dataset[_Seen]):
    """Row and views → (row, digest, its views); instead of a view the reason why there is none: an error raised in a
    worker would arrive as a traceback. The image is decoded once."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: tuple[int, tuple[WholeView, ...]]) -> _Seen:
        row, views = place
        digest = bytes(DIGEST)
        try:
            digest = hashlib.blake2b(self.images.content(row), digest_size=DIGEST).digest()
            image = self.images.read(row)
        except DataError as error:
            return row, digest, dict.fromkeys(views, error.found or error.what)
        return row, digest, {view: _applied(view, image) for view in views}


def _applied(view: WholeView, image: Image.Image) -> Tensor | str:
    try:
        return view(image)
    except DataError as error:
        return error.found or error.what


def _joined(items: Sequence[_Seen]) -> _Batch:
    pixels, unreadable = {}, {}
    for view in items[0][2]:
        its = {row: seen[view] for row, _, seen in items}
        readable = [seen for seen in its.values() if isinstance(seen, Tensor)]
        empty = torch.empty(0, 3, view.crop, view.crop, dtype=torch.uint8)
        pixels[view] = torch.stack(readable) if readable else empty
        unreadable[view] = {row: seen for row, seen in its.items() if isinstance(seen, str)}
    digests = np.frombuffer(b"".join(digest for _, digest, _ in items), np.uint8).reshape(-1, DIGEST).copy()
    return _Batch([row for row, _, _ in items], torch.from_numpy(digests), pixels, unreadable)


class _Computed(NamedTuple):
    """A finished chunk: kind → float32 [rows, width], kind → its unreadable rows, uint8 [rows, 16]."""

    rows: Rows
    features: dict[Kind, NDArray[np.float32]]
    unreadable: dict[Kind, Problems]
    digests: NDArray[np.uint8]


class _Extraction:
    """One set's features in the making.

    Attributes:
        own: what this run asks for; the other stores are filled beside it, and given up one by one where that fails.
        budget: unreadable images that may be left out.
        problems: unreadable rows of all chunks known to all processes; grows.
    """

    def __init__(
        self, images: LabelledImages, own: Sequence[Kind], stores: dict[Kind, Store], world: World, budget: int
    ) -> None:
        self.images, self.own, self.stores, self.world, self.budget = images, own, stores, world, budget
        self.problems: dict[Kind, Problems] = {kind: {} for kind in stores}

    def missing(self) -> list[Rows]:
        """Chunks that some store lacks; the problems of the others are taken note of.

        Raises:
            DataError: there are too many of them.
        """
        for kind, store in self.stores.items():
            for chunk in store.finished.values():
                self.problems[kind].update(chunk.unreadable)
        self._refuse_unreadable()
        chunks = self.stores[self.own[0]].chunks()
        todo = [rows for rows in chunks if self._lacking(rows)]
        if self.world.leads:
            cached = sum(not self.lacks_own(rows) for rows in chunks)
            more = len(self.stores) - len(self.own)
            beside = f"; {more} more for other runs are extracted in the same pass" if more and todo else ""
            logger.info(f"features of {self.images.name}: {cached} of {len(chunks)} chunks are cached{beside}")
        return todo

    def lacks_own(self, rows: Rows) -> bool:
        """Whether this run needs the chunk to be computed."""
        return any(rows not in self.stores[kind].finished for kind in self.own)

    def _lacking(self, rows: Rows) -> list[Kind]:
        return [kind for kind, store in self.stores.items() if rows not in store.finished]

    def vouch(self, trunk: Trunk) -> None:
        """Prove the network that is about to compute, and keep the proof beside the features."""
        for view, _ in self.stores:
            trunk.seen_at(view.crop, view.crop)
        proof = plain(trunk.proof, COMPUTED)
        for kind, store in list(self.stores.items()):
            if not store.complete:
                with self._spared(kind):
                    store.vouch(proof, self.world.leads)

    @saves_when_asked()
    def run(self, mine: Iterator[_Computed], count: int) -> None:
        """Compute and keep `count` chunks, of which the processes take turns.

        After each turn all know of each other's errors and unreadable images, and stop together.
        """
        for _ in range(-(-count // self.world.size)):
            computed = self.world.together(partial(next, mine, None))
            for found in self.world.collect(computed.unreadable if computed else {}):
                for kind, problems in found.items():
                    self.problems[kind].update(problems)
            self._refuse_unreadable()
            self.world.together(partial(self._keep, computed))
            if any(self.world.collect(asked())):  # the chunks are kept
                leave()

    def computed(self, trunk: Trunk, chunks: Sequence[Rows], workers: int, batch: int) -> Iterator[_Computed]:
        """The chunks one after the other. Batches never reach across chunks: a chunk's features are the same whichever
        others are done in the same run.
        """
        batches = []
        for first, stop in chunks:
            views = tuple(dict.fromkeys(view for view, _ in self._lacking((first, stop))))
            for start in range(first, stop, batch):
                batches.append([(row, views) for row in range(start, min(start + batch, stop))])
        loader: Loader[Any] = Loader(
            _Viewed(self.images.images),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_joined,
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
                    pooled: dict[Kind, Tensor] = {}
                    for view, pixels in its.pixels.items():
                        pooled |= self._pooled(trunk, view, pixels, rows)
                    parts.append((its._replace(pixels={}), pooled))  # or a chunk of them is held
                    bar.update(len(its.rows))
                yield self._assembled(rows, parts)

    def _pooled(self, trunk: Trunk, view: WholeView, pixels: Tensor, rows: Rows) -> dict[Kind, Tensor]:
        """Features of a batch, of those kinds of the view that lack the chunk."""
        kinds = [kind for kind in self._lacking(rows) if kind[0] == view]
        if kinds and len(pixels):
            with self._spared(*kinds):
                found = trunk(pixels, [pooling for _, pooling in kinds])
                return {kind: found[kind[1]] for kind in kinds}
        return {}

    def _assembled(self, rows: Rows, parts: Sequence[tuple[_Batch, Mapping[Kind, Tensor]]]) -> _Computed:
        """A chunk out of its batches; only now does the processor wait for the GPU."""
        features: dict[Kind, NDArray[np.float32]] = {}
        unreadable: dict[Kind, Problems] = {}
        for kind in self._lacking(rows):
            problems = {row: reason for batch, _ in parts for row, reason in batch.unreadable[kind[0]].items()}
            readable = np.array([row not in problems for row in range(*rows)])
            array = np.full((len(readable), self.stores[kind].width), np.nan, np.float32)
            if readable.any():
                array[readable] = torch.cat([pooled[kind] for _, pooled in parts if kind in pooled]).cpu().numpy()
            with self._spared(kind):
                self._refuse_infinite(rows, kind[1], readable & ~np.isfinite(array).all(1))
                features[kind], unreadable[kind] = array, problems
        return _Computed(rows, features, unreadable, torch.cat([batch.digests for batch, _ in parts]).numpy())

    def _keep(self, computed: _Computed | None) -> None:
        if computed is None:
            return
        for kind, features in computed.features.items():
            if kind in self.stores:
                with self._spared(kind):
                    unreadable = computed.unreadable[kind]
                    self.stores[kind].keep(computed.rows, features, computed.digests, unreadable, self.world.rank)

    def finish(self) -> bool:
        """Mark the folders as done, and say what was left out."""
        mine = self._problems()
        for kind, store in list(self.stores.items()):
            with self._spared(kind):
                store.finish(self._names(mine if kind in self.own else self.problems[kind]))
        if mine:
            logger.warning(
                f"{self.images.name}: {len(mine)} unreadable images are left out ({self._listed()}); "
                f"to try them again, remove {', '.join(str(self.stores[kind].folder) for kind in self.own)}"
            )
        return True

    def features(self, computed: int) -> Features:
        """What is now on disk, of which `computed` chunks were not there before."""
        mine, usable = self._problems(), np.ones(len(self.images), dtype=np.bool_)
        usable[list(mine)] = False
        stores = {pooling: self.stores[view, pooling] for view, pooling in self.own}
        store = next(iter(stores.values()))
        return Features(
            {pooling: each.array() for pooling, each in stores.items()},
            store.all_digests(),
            usable,
            tuple(self._names(mine).values()),
            joined([proof for each in stores.values() for proof in each.proofs]),
            "cached" if not computed else "computed" if computed == len(store.chunks()) else "partly cached",
            tuple(dict.fromkeys(line for each in stores.values() for line in each.remarks)),
        )

    @contextmanager
    def _spared(self, *kinds: Kind) -> Iterator[None]:
        """What is done for `kinds` alone: where it fails they are given up, unless this run's own are among them."""
        try:
            yield
        except (UserError, torch.OutOfMemoryError) as error:
            if any(kind in self.own for kind in kinds):
                raise
            for kind in kinds:
                self._give_up(kind, str(error))

    def _give_up(self, kind: Kind, why: str) -> None:
        """What is in its folder stays there: the run that wants it goes on from that."""
        logger.debug(f"left to the run that wants it: {kind}: {why}")
        del self.stores[kind]

    def _problems(self) -> Problems:
        """Of this run's own features, in the order of rows."""
        found = {row: why for kind in self.own for row, why in self.problems[kind].items()}
        return dict(sorted(found.items()))

    def _names(self, problems: Problems) -> dict[int, str]:
        return {row: self.images.images.name(row) for row in sorted(problems)}

    def _listed(self, separator: str = "; ") -> str:
        lines = [f"{self.images.images.name(row)}: {why}" for row, why in self._problems().items()]
        return separator.join(lines[:NAMED] + (["…"] if len(lines) > NAMED else []))

    def _refuse_unreadable(self) -> None:
        for kind in [kind for kind in self.stores if kind not in self.own]:
            if len(self.problems[kind]) > self.budget:
                self._give_up(kind, f"{len(self.problems[kind])} unreadable images")
        if (count := len(self._problems())) > self.budget:
            raise DataError(
                f"{count} images of {self.images.name} cannot be read, {self.budget} may be left out",
                found=self._listed("\n"),
                todo=f"replace them, or leave them out with --unreadable {count} "
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
