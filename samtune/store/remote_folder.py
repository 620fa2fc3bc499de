"""Studies in remote storage: written in a working copy on this machine, which a thread sends there."""

from __future__ import annotations

import fcntl
import hashlib
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO

import pyarrow.fs as pafs

from samtune.errors import UsageError, one_line
from samtune.storage import cache_folder, join, open_storage
from samtune.store.journal import FILE_NAME as JOURNAL
from samtune.store.journal import Journal, no_study, parse_journal, running_already
from samtune.store.lease import Lease
from samtune.store.local_folder import StudyFolder, make_folder
from samtune.store.moved import found_at
from samtune.store.uploader import Mirror, fetch, newest_journal
from samtune.study import Callback, Study


class RemoteStudyFolder(StudyFolder):
    """A study's folder at a URI such as s3://bucket/path.

    The working copy is in the user's cache (`SAMTUNE_CACHE`): it holds what a driver that died could not send any more,
    and a study may be resumed from any machine and working directory.
    """

    def __init__(self, storage: str, name: str) -> None:
        super().__init__(storage, name)
        key = hashlib.sha256(storage.encode()).hexdigest()[:20]
        self.local = cache_folder() / "studies" / key / name

    def exists(self) -> bool:
        with self._explained():
            return newest_journal(self.local, self.uri)[0] is not None

    def read(self) -> Study:
        with self._explained():
            journal, _ = newest_journal(self.local, self.uri)
            if journal is None:
                raise no_study(self.uri.partition("?")[0], join(self.uri, JOURNAL), self._others())
        return found_at(parse_journal(journal, join(self.uri, JOURNAL)), self.name, self.uri)

    def is_running(self) -> bool:
        with self._explained():
            return Lease(self.uri, owner="").is_held()

    def check_free(self) -> None:
        with self._locked() as lock, self._explained():
            Lease(self.uri, self._copy_id(lock)).check()

    def open(self, say: Callable[[str], None], stop: Callable[[str], None]) -> list[Callback]:
        lock = self._locked()
        with ExitStack() as on_error, self._explained():
            on_error.callback(lock.close)
            lease = Lease(self.uri, self._copy_id(lock))
            lease.acquire()
            if fetch(self.local, self.uri):
                say("warning: another machine went on with this study; events that only this one had are left out")
            journal = Journal(self.local)
            on_error.pop_all()
        return [journal, Mirror(self.local, self.uri, lease, lock, say=say, stop=stop)]

    def _locked(self) -> IO[str]:
        """The lock of the working copy, until it is closed. Raises UsageError where another process has it."""
        make_folder(self.local)
        path = self.local / "lock"
        lock = path.open("a+", encoding="ascii")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise running_already(self.name, path) from error
        return lock

    @staticmethod
    def _copy_id(lock: IO[str]) -> str:
        """Names this working copy: kept in the file that is its lock."""
        lock.seek(0)
        known = lock.read()
        if not known:
            known = uuid.uuid4().hex
            lock.write(known)
            lock.flush()
        return known

    def _others(self) -> list[str]:
        filesystem, path = open_storage(self.storage)
        found = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return [info.base_name for info in found if info.type == pafs.FileType.Directory]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of the store, before anything is started, as the user's."""
        try:
            yield
        except OSError as error:
            reason = one_line(error, 300)
            raise UsageError(f"cannot be used: {reason}", argument="storage_path", value=self.storage) from error
