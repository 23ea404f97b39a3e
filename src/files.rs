//! Files: memory maps, artifacts, and the directory of a model as a source.
//!
//! The only module of the project that opens a file.

use crate::isa::{Artifact, ArtifactError, Target, TargetError};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What went wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file system refused.
    #[error("{path:?}: cannot {what}: {}", plain(.source))]
    Io {
        /// The path as given.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A directory where a file belongs, or something else that is no file.
    #[error("{path:?}: expected a file, found {found}")]
    NotAFile {
        /// The path as given.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// The artifact cannot be read or written.
    #[error("{path:?}: {source}")]
    Artifact {
        /// The path as given.
        path: PathBuf,
        /// Why.
        source: ArtifactError,
    },
    /// A target that is neither built in nor a file.
    #[error("target {name:?} is unknown; allowed are {known}, or a path of a target file (.toml)")]
    UnknownTarget {
        /// The name asked for.
        name: String,
        /// Names of the built-in targets.
        known: String,
    },
    /// A target file that is wrong.
    #[error(transparent)]
    Target(#[from] TargetError),
}

/// The operating system's message without its number.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file or directory".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => {
            let text = error.to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            text.to_lowercase()
        }
    }
}

/// Maps an `io::Error` to a [`FileError`] at a path.
fn io_at<'a>(path: &'a Path, what: &'static str) -> impl FnOnce(io::Error) -> FileError + 'a {
    move |source| FileError::Io {
        path: path.to_owned(),
        what,
        source,
    }
}

/// The bytes of a file, mapped into memory or, where it is empty, nothing.
#[derive(Debug)]
pub struct FileBytes(Option<memmap2::Mmap>);

impl AsRef<[u8]> for FileBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}

impl FileBytes {
    /// Maps the pages of a file that is read from end to end, on two threads. It only saves time: where a host can not do so, each page
    /// is mapped when it is read first.
    fn map_pages(&self) {
        #[cfg(target_os = "linux")]
        if let Some(map) = &self.0 {
            /// Pages are mapped by multiples of this.
            const PAGES_BYTES: usize = 2 << 20;
            let half = map.len() / 2 / PAGES_BYTES * PAGES_BYTES;
            let populate = |at: usize, bytes: usize| drop(map.advise_range(memmap2::Advice::PopulateRead, at, bytes));
            std::thread::scope(|scope| {
                let beside = std::thread::Builder::new();
                if half > 0 && beside.spawn_scoped(scope, || populate(0, half)).is_err() {
                    populate(0, half);
                }
                populate(half, map.len() - half);
            });
        }
    }
}

/// Maps a file into memory.
///
/// # Errors
/// No such file, no right to read it, not a regular file.
pub fn map_file(path: &Path) -> Result<FileBytes, FileError> {
    let file = File::open(path).map_err(io_at(path, "open"))?;
    let meta = file.metadata().map_err(io_at(path, "open"))?;
    if !meta.is_file() {
        return Err(FileError::NotAFile {
            path: path.to_owned(),
            found: if meta.is_dir() { "a directory" } else { "a special file" },
        });
    }
    if meta.len() == 0 {
        return Ok(FileBytes(None));
    }
    #[allow(unsafe_code)]
    // SAFETY: the map is private and read-only, and lives as long as the `Mmap` that owns it. What remains is another process
    // that changes or truncates the file while it is mapped: readers treat the bytes as hostile and check them before use, and
    // lockstep itself never writes into a file that exists (see `write_artifact`).
    let map = unsafe { memmap2::MmapOptions::new().map_copy_read_only(&file) };
    Ok(FileBytes(Some(map.map_err(io_at(path, "map"))?)))
}

/// Reads a text file of at most 16 MiB.
///
/// # Errors
/// As [`map_file`]; also a file that is too long or no UTF-8.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    const MOST: u64 = 16 << 20;
    if path.is_dir() {
        let path = path.to_owned();
        return Err(FileError::NotAFile {
            path,
            found: "a directory",
        });
    }
    let file = File::open(path).map_err(io_at(path, "open"))?;
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text).map_err(io_at(path, "read"))?;
    Ok(text)
}

/// First bytes of a file, at most eight.
///
/// # Errors
/// As [`map_file`].
pub fn first_bytes(path: &Path) -> Result<Vec<u8>, FileError> {
    let mut file = File::open(path).map_err(io_at(path, "open"))?;
    let mut bytes = Vec::new();
    file.by_ref()
        .take(8)
        .read_to_end(&mut bytes)
        .map_err(io_at(path, "read"))?;
    Ok(bytes)
}

/// Loads an artifact: maps the file and checks everything but the blake3 hashes.
///
/// # Errors
/// What [`map_file`] and [`Artifact::from_bytes`] report.
pub fn read_artifact(path: &Path) -> Result<Artifact, FileError> {
    let bytes = map_file(path)?;
    bytes.map_pages();
    Artifact::from_bytes(Arc::new(bytes)).map_err(|source| FileError::Artifact {
        path: path.to_owned(),
        source,
    })
}

/// Writes an artifact to a temporary file beside `path` and renames it, so that a reader sees the old file or the new one and
/// never a part. Returns its length in bytes.
///
/// # Errors
/// What the file system and the encoder report; the temporary file is removed.
pub fn write_artifact(path: &Path, artifact: &Artifact) -> Result<u64, FileError> {
    write_renamed(path, |out| {
        artifact.write_to(out).map_err(|source| FileError::Artifact {
            path: path.to_owned(),
            source,
        })
    })
}

/// Writes a file by way of a temporary one beside it. Returns its length in bytes.
///
/// # Errors
/// What the file system and `fill` report.
pub fn write_renamed(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), FileError>,
) -> Result<u64, FileError> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let result = write_and_rename(&temporary, path, fill);
    if result.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn write_and_rename(
    temporary: &Path,
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), FileError>,
) -> Result<u64, FileError> {
    let file = File::create(temporary).map_err(io_at(path, "create"))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    fill(&mut out)?;
    let file = out.into_inner().map_err(|e| e.into_error());
    let file = file.map_err(io_at(path, "write"))?;
    let length = file.metadata().map_err(io_at(path, "write"))?.len();
    drop(file);
    fs::rename(temporary, path).map_err(io_at(path, "rename the new file to"))?;
    Ok(length)
}

/// Built kernels of accelerators in a directory, one file for each program.
#[cfg(feature = "opencl")]
pub struct KernelCache {
    directory: PathBuf,
}

#[cfg(feature = "opencl")]
impl KernelCache {
    /// In this directory, which is made when something is kept.
    pub fn new(directory: PathBuf) -> KernelCache {
        KernelCache { directory }
    }

    /// In the user's cache directory; `None` where the user has none.
    pub fn of_user() -> Option<KernelCache> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
        Some(KernelCache::new(cache.join("lockstep").join("kernels")))
    }
}

#[cfg(feature = "opencl")]
impl crate::runtime::opencl::KernelStore for KernelCache {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        fs::read(self.directory.join(key)).ok()
    }

    fn put(&self, key: &str, bytes: &[u8]) {
        let path = self.directory.join(key);
        // What cannot be kept is built again the next time.
        let _ = fs::create_dir_all(&self.directory).map(|()| {
            write_renamed(&path, |out| {
                io::Write::write_all(out, bytes).map_err(io_at(&path, "write"))
            })
        });
    }
}

/// A target by the name of a built-in one, or by the path of a file.
///
/// # Errors
/// No such target; a file that cannot be read; a field that is wrong.
pub fn target(name: &str) -> Result<Target, FileError> {
    if let Some(target) = Target::builtin(name) {
        return Ok(target?);
    }
    let path = Path::new(name);
    if path.extension().is_none_or(|e| e != "toml") {
        return Err(FileError::UnknownTarget {
            name: name.to_owned(),
            known: Target::builtin_names().collect::<Vec<_>>().join(", "),
        });
    }
    let text = read_text(path)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(Target::parse_toml(&stem, &text)?)
}

#[cfg(feature = "compile")]
pub use source::FileSource;

#[cfg(feature = "compile")]
mod source {
    use super::{FileError, io_at, map_file, plain};
    use bytes::Bytes;
    use lockstep_frontend::{Source, SourceError};
    use std::path::{Path, PathBuf};

    /// A model on disk: a file with those beside it, or a directory. Nothing outside the directory is read.
    #[derive(Clone, Debug)]
    pub struct FileSource {
        name: String,
        file: Option<String>,
        root: PathBuf,
    }

    impl FileSource {
        /// The model at a path.
        ///
        /// # Errors
        /// If there is nothing at the path.
        pub fn open(path: &Path) -> Result<FileSource, FileError> {
            let full = path.canonicalize().map_err(io_at(path, "open"))?;
            let name = path
                .file_name()
                .or(full.file_name())
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if full.is_dir() {
                return Ok(FileSource {
                    name,
                    file: None,
                    root: full,
                });
            }
            // The name as given, not that of a link's target: the files beside it are those beside the link.
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            Ok(FileSource {
                file: Some(name.clone()),
                name,
                root: parent.canonicalize().map_err(io_at(path, "open"))?,
            })
        }
    }

    impl Source for FileSource {
        fn name(&self) -> &str {
            &self.name
        }

        fn file(&self) -> Option<&str> {
            self.file.as_deref()
        }

        fn list(&self) -> Result<Vec<String>, SourceError> {
            let entries = std::fs::read_dir(&self.root);
            let entries = entries.map_err(|e| SourceError::Other(plain(&e)))?;
            let mut names = Vec::new();
            for entry in entries {
                let entry = entry.map_err(|e| SourceError::Other(plain(&e)))?;
                if !entry.path().is_dir() {
                    names.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
            names.sort();
            Ok(names)
        }

        fn read(&self, path: &str) -> Result<Bytes, SourceError> {
            let asked = Path::new(path);
            let inside = |p: &Path| p.components().all(|c| matches!(c, std::path::Component::Normal(_)));
            if !inside(asked) {
                let message = "the path leads out of the model's directory";
                return Err(SourceError::Other(message.into()));
            }
            let full = match self.root.join(asked).canonicalize() {
                Ok(full) => full,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    return Err(SourceError::NotFound);
                }
                Err(e) => return Err(SourceError::Other(plain(&e))),
            };
            // The model itself was named by the user and may be a link; what it refers to may not lead elsewhere.
            if self.file.as_deref() != Some(path) && !full.starts_with(&self.root) {
                let message = "a link leads out of the model's directory";
                return Err(SourceError::Other(message.into()));
            }
            match map_file(&full) {
                Ok(bytes) => Ok(Bytes::from_owner(bytes)),
                Err(FileError::Io { source, .. }) => Err(SourceError::Other(plain(&source))),
                Err(FileError::NotAFile { found, .. }) => Err(SourceError::Other(format!("it is {found}"))),
                Err(other) => Err(SourceError::Other(other.to_string())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_temporary() {
        let dir = std::env::temp_dir().join(format!("lockstep-files-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let path = dir.join("x.bin");
        fs::write(&path, b"old").expect("a file");
        let failed = write_renamed(&path, |out| {
            out.write_all(b"new").map_err(io_at(&path, "write"))?;
            Err(FileError::NotAFile {
                path: path.clone(),
                found: "a test",
            })
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).expect("the file"), b"old");
        assert_eq!(fs::read_dir(&dir).expect("the directory").count(), 1);
        fs::remove_dir_all(&dir).expect("to remove it");
    }
}
