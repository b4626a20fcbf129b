"""A replicated counter: a command is a number in JSON that is added, and the reply is the sum so far.

A query is `null`, and its reply the sum. zraft runs this on every replica, with the same commands in the same order,
and all must reach the same state: follow the state and the arguments alone. An exception ends the instance; to refuse a
command, return `Err`.
"""

import json
from typing import List, Optional

import wit_world
import wit_world.exports.machine as resources
from componentize_py_types import Err, Ok
from wit_world.imports.types import Answer, Command, Origin, Outcome

# Names the format of the state in snapshots. Change it when an older snapshot would be misread.
VERSION = "counter 1"

# What every query watches and every command changes: it fires the triggers of those who watch.
VALUE = b"value"

# The sum stays within what 64 bits hold, as those of the other languages do.
MIN, MAX = -(2**63), 2**63 - 1

count = 0


class Machine(wit_world.exports.Machine):
    def version(self) -> str:
        return VERSION

    def init(self, config: bytes) -> None:
        if config:
            raise Err("the counter takes no config")

    def apply(self, commands: List[Command]) -> List[Outcome]:
        return [apply(command) for command in commands]

    def query(self, request: bytes) -> Answer:
        if request != b"null":
            return Answer(Err("malformed query: it must be null"), [])
        return Answer(Ok(encode(count)), [VALUE])

    def expire_session(self, index: int, time_ms: int, session: int) -> List[bytes]:
        # Nothing here belongs to a session.
        return []

    def snapshot(self) -> resources.SnapshotReader:
        return SnapshotReader()

    def restore(self, origin: Origin) -> resources.SnapshotWriter:
        if origin.version != VERSION:
            raise Err(f"the snapshot's format is '{origin.version}' and this backend reads '{VERSION}'")
        return SnapshotWriter()


class SnapshotReader(resources.SnapshotReader):
    def __init__(self) -> None:
        # Equal states must be written as equal bytes.
        self.rest = encode(count)

    def next(self, max_bytes: int) -> Optional[bytes]:
        chunk, self.rest = self.rest[:max_bytes], self.rest[max_bytes:]
        return chunk or None


class SnapshotWriter(resources.SnapshotWriter):
    def __init__(self) -> None:
        self.read = b""

    def write(self, chunk: bytes) -> None:
        self.read += chunk

    @classmethod
    def finish(cls, writer: "SnapshotWriter") -> None:
        global count
        restored = decode(writer.read)
        if restored is None:
            raise Err("the snapshot is no number")
        count = restored


def apply(command: Command) -> Outcome:
    global count
    by = decode(command.data)
    if by is None:
        return Outcome(Err("malformed command: it must be a whole number"), [])
    if not MIN <= count + by <= MAX:
        return Outcome(Err("the counter is full"), [])
    count += by
    return Outcome(Ok(encode(count)), [VALUE])


def encode(number: int) -> bytes:
    return str(number).encode()


def decode(data: bytes) -> Optional[int]:
    """A whole number of 64 bits, or None. Whatever a client sends must not raise."""
    try:
        # Of bytes, json would guess the encoding, and others than UTF-8 are not there.
        number = json.loads(data.decode())
    except (ValueError, RecursionError):
        return None
    return number if type(number) is int and MIN <= number <= MAX else None
