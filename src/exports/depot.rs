//! Where files of exports lie: on this machine, or in a store that speaks S3's protocol.

use std::error::Error;
use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::{ClientConfigKey, GetOptions, GetRange, ObjectStore, ObjectStoreExt, RetryConfig, WriteMultipart};
use uuid::Uuid;

/// So much of a file is sent to the store at a time. S3 takes 10,000 of these, which makes 80 GB.
const PART_BYTES: usize = 8 << 20;
/// Of the parts on their way to the store, so many: with the one that is being filled, 24 MB of an export are in memory.
pub(super) const PARTS_UNDER_WAY: usize = 2;
/// A store that does not do what it is asked within this has failed, for now: the export is tried again a little later.
const RETRY_TIMEOUT: Duration = Duration::from_secs(20);
const REQUEST_TIMEOUT: &str = "60 seconds";
const RETRIES: usize = 3;

/// For its owner alone.
const DIRECTORY_MODE: u32 = 0o700;

/// Which store is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Store {
    /// The directory `exports` in the data directory.
    #[default]
    DataDirectory,
    /// Another directory.
    Directory(PathBuf),
    /// A bucket of S3 or of a store that speaks its protocol, and what all names in it begin with.
    S3 {
        /// The bucket.
        bucket: String,
        /// What all names begin with; may be empty.
        prefix: String,
    },
}

impl Store {
    /// The directory that it is, if it is one.
    pub(crate) fn directory(&self, data_directory: &Path) -> Option<PathBuf> {
        match self {
            Self::DataDirectory => Some(data_directory.join("exports")),
            Self::Directory(path) => Some(path.clone()),
            Self::S3 { .. } => None,
        }
    }
}

/// What is no store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a store: it takes a directory, or s3://bucket or s3://bucket/prefix")]
pub struct MalformedStore(String);

impl FromStr for Store {
    type Err = MalformedStore;

    fn from_str(text: &str) -> Result<Self, MalformedStore> {
        let Some((scheme, rest)) = text.split_once("://") else {
            let is_default = text.is_empty();
            return Ok(if is_default { Self::DataDirectory } else { Self::Directory(text.into()) });
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if scheme != "s3" || bucket.is_empty() {
            return Err(MalformedStore(text.to_owned()));
        }
        Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.trim_matches('/').to_owned() })
    }
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DepotError {
    /// There is no such directory, and it cannot be made.
    #[error("the directory for exports, {}, cannot be used", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The settings do not make sense.
    #[error("the store for exports cannot be used")]
    Settings(#[from] object_store::Error),
}

/// The store. A shared handle.
#[derive(Clone)]
pub struct Depot {
    objects: Arc<dyn ObjectStore>,
    /// What all names begin with.
    prefix: object_store::path::Path,
    /// Where the files are, if they are on this machine.
    directory: Option<PathBuf>,
}

impl Depot {
    /// Opens the store. Whether one that is elsewhere answers is seen when an export is made.
    pub fn open(store: &Store, data_directory: &Path) -> Result<Self, DepotError> {
        match store {
            Store::DataDirectory => Self::in_directory(&data_directory.join("exports")),
            Store::Directory(path) => Self::in_directory(path),
            Store::S3 { bucket, prefix } => {
                let retry =
                    RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
                let timeout = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
                let builder = AmazonS3Builder::from_env()
                    .with_bucket_name(bucket)
                    .with_config(timeout, REQUEST_TIMEOUT)
                    .with_retry(retry);
                Self::at(Arc::new(builder.build()?), prefix)
            }
        }
    }

    /// Any store, with names that begin like that.
    pub fn at(objects: Arc<dyn ObjectStore>, prefix: &str) -> Result<Self, DepotError> {
        let prefix = object_store::path::Path::parse(prefix).map_err(object_store::Error::from)?;
        Ok(Self { objects, prefix, directory: None })
    }

    /// Files in a directory, which is made if there is none.
    pub fn in_directory(path: &Path) -> Result<Self, DepotError> {
        let unusable = |source| DepotError::Directory { path: path.to_owned(), source };
        // What is in the ledger is not for other users of the machine. A directory that was there is as it was made.
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path).map_err(unusable)?;
        let directory = path.canonicalize().map_err(unusable)?;
        // A file that was said to be complete is still there when the power comes back.
        let objects = LocalFileSystem::new_with_prefix(&directory)?.with_fsync(true);
        Ok(Self { objects: Arc::new(objects), prefix: object_store::path::Path::default(), directory: Some(directory) })
    }

    /// Asks a store that is elsewhere for the first name that it has, to see whether it answers.
    pub(crate) async fn answers(&self) -> Result<(), String> {
        match self.objects.list(Some(&self.prefix)).next().await {
            Some(Err(error)) => Err(explain(&error).0),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    /// Begins a file. Nobody sees it before it is finished.
    pub(super) async fn begin(&self, object: &str) -> Result<WriteMultipart, object_store::Error> {
        let upload = self.objects.put_multipart(&self.path(object)?).await?;
        Ok(WriteMultipart::new_with_chunk_size(upload, PART_BYTES))
    }

    /// Reads a file, or a part of it.
    pub async fn read(
        &self,
        object: &str,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, object_store::Error>>, object_store::Error> {
        let options = GetOptions::default().with_range(Some(GetRange::Bounded(range)));
        Ok(self.objects.get_opts(&self.path(object)?, options).await?.into_stream())
    }

    /// Removes everything that there is of an export.
    pub(super) async fn remove(&self, id: Uuid) -> Result<(), object_store::Error> {
        self.remove_attempts(id, i32::MAX).await
    }

    /// Removes what there is of an export up to that attempt to make it: also what was not finished.
    pub(super) async fn remove_attempts(&self, id: Uuid, last: i32) -> Result<(), object_store::Error> {
        let is_meant = move |name: &str| {
            let attempt = name.split('.').next().and_then(|attempt| attempt.parse::<i32>().ok());
            attempt.is_none_or(|attempt| attempt <= last)
        };
        if let Some(directory) = &self.directory {
            // Files that were not finished are not listed by the library.
            return remove_files(&directory.join(id.to_string()), is_meant)
                .await
                .map_err(|error| object_store::Error::Generic { store: "LocalFileSystem", source: error.into() });
        }
        let all = self.objects.list(Some(&self.path(&id.to_string())?)).map_ok(|object| object.location);
        let meant = all.try_filter(move |path| std::future::ready(path.filename().is_none_or(is_meant)));
        self.objects.delete_stream(meant.boxed()).try_collect::<Vec<_>>().await.map(drop)
    }

    fn path(&self, object: &str) -> Result<object_store::path::Path, object_store::Error> {
        let prefix = &self.prefix;
        Ok(object_store::path::Path::parse(format!("{prefix}/{object}").trim_start_matches('/'))?)
    }
}

impl fmt::Debug for Depot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Depot").field("objects", &format_args!("{}", self.objects)).finish_non_exhaustive()
    }
}

async fn remove_files(directory: &Path, is_meant: impl Fn(&str) -> bool) -> io::Result<()> {
    let unless_gone = |outcome: io::Result<()>| match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let mut entries = match tokio::fs::read_dir(directory).await {
        Ok(entries) => entries,
        Err(error) => return unless_gone(Err(error)),
    };
    while let Some(entry) = entries.next_entry().await? {
        if entry.file_name().to_str().is_none_or(&is_meant) {
            unless_gone(tokio::fs::remove_file(entry.path()).await)?;
        }
    }
    match tokio::fs::remove_dir(directory).await {
        // A later attempt has begun in this moment.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => unless_gone(removed),
    }
}

/// Why the store failed, for people; and whether it may do better the next time.
pub(super) fn explain(error: &object_store::Error) -> (String, bool) {
    use object_store::Error as Failure;
    let cause = root(error);
    if let Some(kind) = cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        let detail = match kind {
            io::ErrorKind::StorageFull => "The disk of the store is full",
            io::ErrorKind::QuotaExceeded => "The store has as much as its quota allows",
            io::ErrorKind::ReadOnlyFilesystem => "The disk of the store is read-only",
            io::ErrorKind::PermissionDenied => "The server may not write to the directory of the store",
            io::ErrorKind::FileTooLarge => "The file is larger than the disk of the store takes",
            _ => return (format!("The store cannot be written: {cause}"), true),
        };
        return (detail.to_owned(), false);
    }
    match error {
        Failure::PermissionDenied { .. } | Failure::Unauthenticated { .. } => {
            ("The store does not let the server write: look at its key and at what that may do".to_owned(), false)
        }
        Failure::NotFound { .. } => ("The store has no such bucket".to_owned(), false),
        _ => (format!("The store failed: {cause}"), true),
    }
}

fn root<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    // An error of the system wraps one with a number, which is itself.
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_named_by_a_directory_or_a_bucket() {
        let s3 = |bucket: &str, prefix: &str| Store::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() };
        for (text, store) in [
            ("", Store::DataDirectory),
            ("/srv/exports", Store::Directory("/srv/exports".into())),
            ("exports", Store::Directory("exports".into())),
            ("s3://files", s3("files", "")),
            ("s3://files/", s3("files", "")),
            ("s3://files/of/ours/", s3("files", "of/ours")),
        ] {
            assert_eq!(text.parse(), Ok(store), "{text}");
        }
        for text in ["s3://", "s3:///prefix", "gs://files", "https://example.com/files"] {
            assert_eq!(text.parse::<Store>(), Err(MalformedStore(text.to_owned())));
        }
    }

    #[test]
    fn a_full_disk_is_called_one_and_not_tried_again() {
        let source = io::Error::from(io::ErrorKind::StorageFull);
        let error = object_store::Error::Generic { store: "LocalFileSystem", source: source.into() };
        assert_eq!(explain(&error), ("The disk of the store is full".to_owned(), false));
        let source = io::Error::new(io::ErrorKind::ConnectionReset, "reset by peer");
        let error = object_store::Error::Generic { store: "S3", source: source.into() };
        assert_eq!(explain(&error), ("The store cannot be written: reset by peer".to_owned(), true));
    }
}
