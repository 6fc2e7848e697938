"""Maps in a zip file, laid out in it as in folders."""

from __future__ import annotations

import dataclasses
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator

from sceneloom.contract import InputKind
from sceneloom.errors import ImageReadError, InputError
from sceneloom.files import LeftOut, describe, split_hidden
from sceneloom.locations import lies_in, open_binary, read_range
from sceneloom.pairing import is_map_name, no_maps, pair_names, table_name
from sceneloom.rendering.items import MapItem, broken_item, check_size, key_error
from sceneloom.text import reason

_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and of the extra field
_ENCRYPTED = 1


@dataclasses.dataclass(frozen=True)
class ZippedFile:
    """A map in a zip file, with the numbers of the archive's directory."""

    archive: str
    member: str
    header: int
    """Offset of its header."""
    packed: int
    """Bytes in the archive."""
    size: int
    """Bytes unpacked, by the directory."""
    checksum: int
    """CRC-32 of the unpacked bytes."""
    method: int
    flags: int
    """Flags of the directory; bit 0 means encrypted."""

    @property
    def name(self) -> str:
        """The archive and the member's name."""
        return f"{self.archive}/{self.member}"

    def read(self, max_bytes: int) -> bytes:
        """Unpack it, to at most `max_bytes`, whatever the archive claims; see `MapFile`."""
        check_size(self.name, self.size, max_bytes)
        check_size(self.name, self.packed, max_bytes + (max_bytes >> 10) + 1024)
        if self.flags & _ENCRYPTED:
            raise ImageReadError(f"{self.name}: encrypted")
        if self.method not in (_STORED, _DEFLATED):
            raise ImageReadError(
                f"{self.name}: compressed by method {self.method}; deflated and stored files are "
                "read"
            )
        try:
            data = self._packed_bytes()
            if self.method != _STORED:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.size + 1)
        except OSError as error:
            raise ImageReadError(f"{self.name}: cannot be read ({reason(error)})") from None
        except zlib.error as error:
            raise ImageReadError(f"{self.name}: damaged ({error})") from None
        if len(data) != self.size or zlib.crc32(data) != self.checksum:
            raise ImageReadError(f"{self.name}: truncated or damaged (checksum)")
        return data

    def _packed_bytes(self) -> bytes:
        header = read_range(self.archive, self.header, _LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size:
            raise ImageReadError(f"{self.name}: truncated (the archive ends before it)")
        signature, name, extra = _LOCAL_HEADER.unpack(header)
        if signature != b"PK\x03\x04":
            raise ImageReadError(f"{self.name}: damaged (no header where it should be)")
        start = self.header + _LOCAL_HEADER.size + name + extra
        packed = read_range(self.archive, start, self.packed)
        if len(packed) < self.packed:
            raise ImageReadError(f"{self.name}: truncated (the archive ends inside it)")
        return packed


class ZipSource:
    """The label maps of a folder in a zip file, and their instance maps, in key order."""

    def __init__(
        self,
        archive: str,
        labels: str,
        instances: str | None,
        *,
        training_ids: bool = False,
        may_lack_instances: bool = False,
        kind: InputKind = "labels",
    ) -> None:
        """Read the archive's directory; ``.`` is the folder of the whole archive.

        `may_lack_instances` says that the folder of instance maps need not exist.

        Raises InputError if it cannot be read, has no such folder or no maps in it, two maps would
        share one picture's name, or two instance maps fit one name.
        """
        self._archive = archive
        members = _members(archive)
        if instances is not None and may_lack_instances:
            inside = (name for name in members if name.startswith(_inner(instances)))
            instances = instances if any(map(is_map_name, inside)) else None
        folders = [labels] if instances is None else [labels, instances]
        inner = [_inner(folder) for folder in folders]
        together = len(inner) > 1 and inner[0] == inner[1]
        names: list[list[str]] = []
        self.left_out: list[LeftOut] = []
        for prefix in inner[: 1 if together else 2]:
            found = [name for name in members if name.startswith(prefix)]
            if prefix and not any(map(is_map_name, found)):
                top = sorted({name.partition("/")[0] for name in members if "/" in name})
                raise InputError(
                    f"{archive}/{prefix[:-1]}: no maps in a folder of this name; name the folders "
                    "in the archive with --labels and --instances"
                    + (f" (it holds {', '.join(top[:8])})" if top else " (. for all of it)")
                )
            for other in inner:  # one may lie in the other
                if other != prefix and other.startswith(prefix):
                    found = [name for name in found if not name.startswith(other)]
            visible, hidden = split_hidden(sorted(name.removeprefix(prefix) for name in found))
            names.append(visible)
            self._leave_out(prefix, hidden)
        pairing = pair_names(
            names[0],
            None if instances is None else names[-1],
            together=together,
            training_ids=training_ids,
            kind=kind,
            locate_label=lambda name: f"{archive}/{inner[0]}{name}",
            locate_instance=lambda name: f"{archive}/{inner[-1]}{name}",
        )
        self._leave_out(inner[0], pairing.labels_left_out)
        self._leave_out(inner[-1], pairing.instances_left_out)
        if not pairing.pairs:
            reason = no_maps(f"{archive}/{labels}", kind)
            raise InputError("; ".join([reason, *describe(self.left_out)]))
        self._items = [
            (
                key,
                members[inner[0] + label],
                members[inner[-1] + instance] if instance else None,
                members.get(table_name(inner[0] + label) or ""),
            )
            for key, label, instance in pairing.pairs
        ]

    def _leave_out(self, prefix: str, left_out: Iterable[LeftOut]) -> None:
        self.left_out += [dataclasses.replace(one, name=prefix + one.name) for one in left_out]

    def count(self) -> int:
        """The number of label maps."""
        return len(self._items)

    def __iter__(self) -> Iterator[MapItem]:
        """The maps, in key order."""
        for number, (key, label, instance, table) in enumerate(self._items):
            if fault := key_error(key):
                name = f"{self._archive}/{label.member!r}"
                yield broken_item(self._archive, number, name, f"cannot name a picture ({fault})")
            else:
                yield MapItem(key=key, label=label, instance=instance, table=table)

    def holds(self, location: str) -> bool:
        """Whether pictures there would be taken for maps, or lie among them."""
        return lies_in(location, self._archive)


def _members(archive: str) -> dict[str, ZippedFile]:
    """Name -> file, from the archive's directory."""
    try:
        with open_binary(archive) as stream, zipfile.ZipFile(stream) as opened:
            infos = opened.infolist()
    except FileNotFoundError:
        raise InputError(f"{archive}: no such file") from None
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{archive}: truncated, damaged or no zip file ({error})") from None
    except OSError as error:
        raise InputError(f"{archive}: cannot be read ({reason(error)})") from None
    members: dict[str, ZippedFile] = {}
    for info in infos:
        name = info.filename.removeprefix("./")
        if info.is_dir():
            continue
        if name in members and is_map_name(name):
            raise InputError(f"{archive}: two files in it are called {name}")
        members[name] = ZippedFile(
            archive=archive,
            member=name,
            header=info.header_offset,
            packed=info.compress_size,
            size=info.file_size,
            checksum=info.CRC,
            method=info.compress_type,
            flags=info.flag_bits,
        )
    return members


def _inner(folder: str) -> str:
    """The start of the names of a folder's members: empty, or with a slash behind it."""
    parts = [part for part in folder.split("/") if part not in ("", ".")]
    return "".join(f"{part}/" for part in parts)
