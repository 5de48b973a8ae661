"""The base model as it is served: its GGUF file, and the facts that servers are compared with.

`base_model` is converted once. A file from elsewhere (`serve.base_model_path`) is compared with the
folder once for each content of the two. Both take a worker; what is there already takes none.
"""

import contextlib
import fcntl
import hashlib
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, NamedTuple

import anyio
from anyio import to_thread

from honed import log
from honed.domain.base_facts import FACTS_FORMAT, read_facts
from honed.domain.job import CompareBaseJob, ExportBaseJob
from honed.errors import ParityError, TrainingError, UnsupportedError
from honed.machine import model
from honed.processors.worker_process import DEFAULT_GRACE, run_job

FORMAT: Final = 2
"""Raised when the conversion changes, so that older files are not used."""
_WHOLE: Final = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer*.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "*.jinja",
    "additional_chat_templates/*.jinja",
)
"""What converting, comparing and rendering read; the content decides. Of the weights, name, size and
time do. None that facts hold (`BaseFacts.files`) may be left out: no change would make new ones.
"""
_PARTS: Final = re.compile(r"-\d{5}(-of-\d{5}\.gguf)\Z")
_LOOK_S: Final = 0.2


class ServedBase(NamedTuple):
    """A base model that may be served."""

    gguf: Path
    facts: Path | None
    """None where nothing says what it was made from."""


class BaseModel:
    """The base model of one config; `ensure` makes and compares, and remembers how that ended."""

    def __init__(
        self,
        base_model: str | None,
        folder: Path,
        *,
        gguf: Path | None = None,
        outtype: Literal["f32", "f16"] = "f32",
        python: str = sys.executable,
        stop_grace: timedelta = DEFAULT_GRACE,
    ) -> None:
        """Name the base model.

        Args:
            base_model: folder in Hugging Face's format, or a hub id. A changed folder is converted
                anew. None when only `gguf` is there.
            folder: where the GGUF and the facts are kept.
            gguf: a GGUF of the base model from elsewhere; None converts `base_model`.
            outtype: of the conversion.
            python: interpreter that has the training stack.
            stop_grace: how long a worker that is told to end may take.
        """
        assert base_model or gguf, "there is a base model"
        self._base_model = base_model
        self._folder = folder.absolute()  # the worker has a working folder of its own
        self._named = gguf.expanduser().absolute() if gguf else None
        self._outtype = outtype
        self._python = python
        self._stop_grace = stop_grace
        self._first: str | None = None
        self._refused: tuple[tuple[object, ...], ParityError] | None = None
        self._turn = anyio.Lock()

    async def ensure(self) -> ServedBase:
        """The GGUF file and its facts, made where they are not there yet.

        A named GGUF that cannot be compared, now or later (no training stack here; an architecture,
        a tokenizer or a format that honed does not know), comes without facts.

        Raises:
            ParityError: the GGUF file is another model than the folder; asked again only when one
                of the two has changed.
            TrainingError: there is no such model, it cannot be converted, or the worker ended
                without a verdict (killed, hung, no memory); the message says why. Asked again, it
                is tried again.
        """
        async with self._turn:
            key, compared = await to_thread.run_sync(self._compared)
            if self._refused is not None and self._refused[0] == compared:
                raise self._refused[1]
            try:
                served = await self._ensure(key)
            except ParityError as error:
                self._refused = (compared, error)
                raise
            except UnsupportedError as error:
                if self._named is None or not _is_there(self._named):
                    raise
                # Nothing speaks against the file; it cannot be looked at here, or not by honed.
                log.get(gguf=str(self._named)).warning(log.BASE_UNCOMPARED, error=str(error))
                served = ServedBase(self._named, None)
            if self._first is None:
                # Not the key above: a model of the hub may only now be on this machine.
                self._first = await to_thread.run_sync(self._key)
            return served

    async def check_unchanged(self) -> Path | None:
        """See that the base model is the one that was there at the start; the path of its facts.

        Raises:
            ParityError: it has been changed since, or is not the GGUF that is served.
            TrainingError: see `ensure`.
        """
        if self._first is not None and await to_thread.run_sync(self._key) != self._first:
            raise ParityError(
                f"the base model {self._base_model} was changed since this process started",
                advice="start `honed serve` and `honed run` again to serve and train it as it is "
                "now, or put it back as it was",
            )
        return (await self.ensure()).facts

    async def _ensure(self, key: str) -> ServedBase:
        if self._base_model is None:
            assert self._named is not None
            return ServedBase(self._seen(self._named), None)
        self._folder.mkdir(parents=True, exist_ok=True)
        gguf, facts = self._places(key)
        if not _is_known(gguf, facts):
            async with _alone(self._folder / ".base.lock"):
                gguf, facts = self._places(await to_thread.run_sync(self._key))
                if not _is_known(gguf, facts):  # another process may have been at it
                    await self._work(gguf, facts)
                    # Kept under the name by which it is looked for from now on.
                    made, (gguf, facts) = (gguf, facts), self._places(self._key())
                    made[0].replace(gguf)
                    made[1].replace(facts)
        return ServedBase(gguf, facts)

    def _places(self, key: str) -> tuple[Path, Path]:
        """Where the GGUF file and its facts are."""
        if self._named is None:
            return (
                self._folder / f"base-{key}-{self._outtype}.gguf",
                self._folder / f"base-{key}-{self._outtype}.facts.json",
            )
        name = f"{self._named.stem}-{key}{_rest(self._named)}.facts.json"
        return self._seen(self._named), self._folder / name

    async def _work(self, gguf: Path, facts: Path) -> None:
        assert self._base_model is not None
        local = model.find(self._base_model)
        named = str(local or self._base_model)
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=f".{gguf.stem}-") as scratch:
            result = str(Path(scratch) / "result.json")
            job: CompareBaseJob | ExportBaseJob
            if _is_there(gguf):
                job = CompareBaseJob(
                    base_model=named, gguf_path=str(gguf), facts_path=str(facts), result_path=result
                )
            else:
                job = ExportBaseJob(
                    base_model=named,
                    output_path=str(gguf),
                    result_path=result,
                    outtype=self._outtype,
                    facts_path=str(facts),
                )
            await run_job(job, Path(scratch), python=self._python, stop_grace=self._stop_grace)

    def _compared(self) -> tuple[str, tuple[object, ...]]:
        """The key, and what tells one comparison of the two from the next."""
        key = self._key()
        return key, (key, *(_stamp(path) for path in _parts(self._named)))

    def _key(self) -> str:
        """Names the folder's content; a hub id that is not on this machine is named by itself.

        Raises:
            TrainingError: the folder cannot be read.
        """
        try:
            return self._read_key()
        except OSError as error:  # also while somebody replaces the folder
            raise TrainingError(
                f"base model {self._base_model} cannot be read: {error}",
                advice="see that each of its files is there and may be read by this user",
            ) from error

    def _read_key(self) -> str:
        total = hashlib.sha256(f"{FORMAT}\0{FACTS_FORMAT}\0".encode())
        local = model.find(self._base_model) if self._base_model else None
        if local is None:
            total.update((self._base_model or "").encode())
            return total.hexdigest()[:16]
        for path in sorted({path for pattern in _WHOLE for path in local.glob(pattern)}):
            total.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
        for path in sorted(local.glob("*.safetensors")):
            found = path.stat()
            total.update(f"{path.name}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
        return total.hexdigest()[:16]

    def _seen(self, path: Path) -> Path:
        if not path.is_file():
            raise TrainingError(
                f"serve.base_model_path {path} does not exist",
                advice="name the base model as GGUF, or leave the key out to have base_model "
                "converted",
            )
        return path


async def ensure_base(
    base_model: str | None, folder: Path, *, gguf: Path | None = None
) -> ServedBase:
    """The base model as it is served; see `BaseModel.ensure`."""
    return await BaseModel(base_model, folder, gguf=gguf).ensure()


def _parts(gguf: Path | None) -> list[Path]:
    """The files of a GGUF that may have been split into several."""
    if gguf is None:
        return []
    if (match := _PARTS.search(gguf.name)) is None:
        return [gguf]
    start, end = gguf.name[: match.start()], match[1]
    names = [path.name for path in gguf.parent.glob(f"*{end}")]
    return [gguf.with_name(name) for name in sorted(names) if name.startswith(f"{start}-")]


def _rest(gguf: Path) -> str:
    """Names what the parts of a split file are beside the first, whose size and time the facts hold."""
    stamps = [_stamp(path) for path in _parts(gguf) if path != gguf]
    return f"-{hashlib.sha256(repr(stamps).encode()).hexdigest()[:8]}" if stamps else ""


def _stamp(path: Path) -> tuple[str, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return path.name, found.st_size, found.st_mtime_ns


def _is_there(path: Path) -> bool:
    return path.is_file()


def _is_known(gguf: Path, facts: Path) -> bool:
    """Whether the file is there, and is the one that the facts were written for."""
    known = read_facts(facts)
    return known is not None and known.gguf.is_unchanged(gguf)


@contextlib.asynccontextmanager
async def _alone(lock: Path) -> AsyncIterator[None]:
    """Hold a lock file: daemon and gateway may both want the same file made at the same time."""
    with lock.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await anyio.sleep(_LOOK_S)
        yield
