"""The files that the settings ask for."""

from __future__ import annotations

from app.files.files import Files
from app.files.folder import Folder
from app.files.storage import Storage, folder_of
from app.settings.catalogue import Settings
from app.store.opening import default_url
from app.store.records import FileLimits

FILE = "files.sqlite3"


def files_of(settings: Settings) -> Files | None:
    """None: this server keeps no files."""
    path = (settings.file_storage_path or "").strip()
    if not path:
        return None
    storage: Storage
    if (folder := folder_of(path)) is not None:
        folder = folder.absolute()
        storage = Folder(folder)
    else:
        from app.files.bucket import Bucket  # obstore's 15 MB are for buckets only

        storage = Bucket(path)
    url = (settings.store_url or "").strip()
    if folder is not None and not url.startswith("postgres"):
        # Beside what it is about: the folder may outlive STATE_DIR, and be moved.
        url = f"sqlite:///{folder / FILE}"
    return Files(
        url or default_url(settings),
        storage,
        FileLimits(
            most_files=settings.file_max_count,
            most_owner_bytes=settings.file_max_key_bytes,
            most_bytes=settings.file_max_total_bytes,
        ),
        most_file_bytes=settings.file_max_bytes,
        most_uploads=settings.file_max_uploads,
        ttl_s=settings.file_ttl_s,
    )
