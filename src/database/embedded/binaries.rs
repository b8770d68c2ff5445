//! Where the Postgres programs are.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cluster::Cluster;
use super::{EmbeddedError, Settings};

/// The oldest version that newcycle runs on.
pub(super) const OLDEST_MAJOR: u32 = 15;

/// Where system packages put the programs: `*` stands for a version.
const SYSTEM: [&str; 5] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
];

/// Where fetched programs are kept. Root's home is usually closed to the user that runs Postgres, hence not there.
pub(super) fn default_cache_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/cache/newcycle/postgres");
    }
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("XDG_CACHE_HOME")
        .or_else(|| Some(variable("HOME")?.join(".cache")))
        .unwrap_or_else(env::temp_dir)
        .join("newcycle/postgres")
}

/// psql: the one beside the other programs, else whichever is on the PATH.
pub(super) fn psql(bin: Option<&Path>) -> PathBuf {
    let beside = bin.map(|bin| bin.join("psql")).filter(|psql| psql.is_file());
    // Not the other way round: distributions put a wrapper on the PATH that may have nothing to wrap.
    beside.unwrap_or_else(|| PathBuf::from("psql"))
}

/// The places to look in, most wanted first.
#[derive(Debug)]
pub(super) struct Places {
    explicit: Option<PathBuf>,
    cache_dir: PathBuf,
    system: Vec<PathBuf>,
    path: Vec<PathBuf>,
}

impl Places {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            explicit: settings.binaries.clone(),
            cache_dir: settings.cache_dir.clone(),
            system: SYSTEM.iter().flat_map(|pattern| matching(Path::new(pattern))).collect(),
            path: path_directories(),
        }
    }

    /// Every installation there is, the one to prefer first.
    fn installations(&self) -> Vec<Installation> {
        let newest_first = |directories: Vec<PathBuf>| {
            let mut found: Vec<_> = directories.iter().filter_map(|bin| Installation::at(bin).ok()).collect();
            found.sort_by_key(|installation| std::cmp::Reverse(installation.major));
            found
        };
        let mut found = newest_first(matching(&self.cache_dir.join("*/bin")));
        found.extend(newest_first(self.system.clone()));
        found.extend(self.path.iter().filter_map(|bin| Installation::at(bin).ok()));
        found.retain(|installation| installation.major >= OLDEST_MAJOR);
        found.dedup();
        found
    }
}

/// A directory with `postgres` and `initdb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Installation {
    bin: PathBuf,
    major: u32,
}

impl Installation {
    /// The installation to use for `cluster`: of its version if it has one already.
    pub(super) fn find(places: &Places, cluster: &Cluster) -> Result<Self, EmbeddedError> {
        let needed = cluster.major_version()?;
        let found = match &places.explicit {
            Some(directory) => {
                vec![
                    Self::at(directory)
                        .and_then(Self::not_too_old)
                        .map_err(|reason| EmbeddedError::UnusableBinaries { directory: directory.clone(), reason })?,
                ]
            }
            None => places.installations(),
        };
        let Some(chosen) = found.iter().find(|installation| needed.is_none_or(|major| installation.major == major))
        else {
            return Err(match needed {
                Some(needed) => EmbeddedError::OtherVersion {
                    data_dir: cluster.data_dir().to_owned(),
                    needed,
                    found: join(found.iter().map(|installation| installation.major.to_string())),
                },
                None => EmbeddedError::NoBinaries {
                    looked_in: join(
                        [places.cache_dir.display().to_string()]
                            .into_iter()
                            .chain(SYSTEM.map(ToOwned::to_owned))
                            .chain(["PATH".to_owned()]),
                    ),
                },
            });
        };
        Ok(chosen.clone())
    }

    /// The installation in a directory, or what is wrong with it.
    fn at(bin: &Path) -> Result<Self, String> {
        // Distributions link single programs into /usr/local/bin: the others are where the real one is.
        let Ok(postgres) = bin.join("postgres").canonicalize() else {
            return Err("there is no postgres".to_owned());
        };
        let bin = postgres.parent().unwrap_or(bin).to_owned();
        if !bin.join("initdb").is_file() {
            return Err("there is no initdb".to_owned());
        }
        let output = Command::new(&postgres).arg("--version").output();
        let output = output.map_err(|error| format!("postgres does not run: {error}"))?;
        let version = String::from_utf8_lossy(&output.stdout);
        let major = major_version(&version).ok_or_else(|| {
            format!("postgres --version does not tell its version: {}", String::from_utf8_lossy(&output.stderr).trim())
        })?;
        Ok(Self { bin, major })
    }

    fn not_too_old(self) -> Result<Self, String> {
        if self.major >= OLDEST_MAJOR {
            Ok(self)
        } else {
            Err(format!("version {} is older than {OLDEST_MAJOR}", self.major))
        }
    }

    pub(super) fn bin(&self) -> &Path {
        &self.bin
    }

    pub(super) fn major(&self) -> u32 {
        self.major
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` is 15, `postgres (PostgreSQL) 18beta1` is 18.
fn major_version(output: &str) -> Option<u32> {
    let (_, version) = output.split_once("(PostgreSQL) ")?;
    let end = version.find(|character: char| !character.is_ascii_digit()).unwrap_or(version.len());
    version[..end].parse().ok()
}

/// The existing directories that match a path with at most one `*` in a component.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let name = component.as_os_str().to_string_lossy();
        let Some((before, after)) = name.split_once('*') else {
            found.iter_mut().for_each(|path| path.push(component));
            continue;
        };
        let matches = |entry: &fs::DirEntry| {
            let entry = entry.file_name();
            let entry = entry.to_string_lossy();
            entry.starts_with(before) && entry.ends_with(after)
        };
        let entries = found.iter().filter_map(|parent| fs::read_dir(parent).ok()).flatten().filter_map(Result::ok);
        found = entries.filter(matches).map(|entry| entry.path()).collect();
    }
    found.retain(|path| path.is_dir());
    found
}

fn path_directories() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).filter(|directory| directory.is_absolute()).collect()
}

fn join(texts: impl Iterator<Item = String>) -> String {
    let texts: Vec<_> = texts.collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_releases_and_betas() {
        assert_eq!(major_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major_version("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_version("postgres: not found"), None);
    }

    #[test]
    fn a_star_stands_for_any_version() {
        let root = tempfile::tempdir().unwrap();
        for directory in ["pgsql-15/bin", "pgsql-18/bin", "pgsql-17", "other/bin"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let mut found = matching(&root.path().join("pgsql-*/bin"));
        found.sort();
        assert_eq!(found, [root.path().join("pgsql-15/bin"), root.path().join("pgsql-18/bin")]);
    }
}
