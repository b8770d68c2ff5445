//! The files of an embedded Postgres: what is in the data directory, whose it is, and how it is made.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, geteuid};
use uuid::Uuid;

use super::binaries::Installation;
use super::{Durability, EmbeddedError, USER, process};

/// A log that is larger is begun anew: ten million bytes are a great many starts or an afternoon of errors.
const LOG_LIMIT: u64 = 10_000_000;
/// How many lines of the log an error shows.
const LOG_LINES: usize = 20;
/// `sockaddr_un` has 108 bytes on Linux and 104 elsewhere, one of them for the end.
const SOCKET_PATH_LIMIT: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// The accounts that run Postgres when we are root, the first that exists.
const ACCOUNTS: [&str; 2] = ["postgres", "nobody"];

/// An account of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Held for as long as the process lives; the kernel lets go of it whatever the process dies of.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    /// Closing the file is not enough while a child is being started, which has it open until it becomes another program.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// What a running Postgres wrote about itself.
#[derive(Debug)]
pub(super) struct PostmasterFile {
    pub(super) pid: Pid,
    pub(super) port: Option<u16>,
    pub(super) program: Option<PathBuf>,
}

/// The log, from where this start began.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    begin: u64,
}

impl Log {
    /// The last lines.
    pub(super) fn tail(&self) -> String {
        let mut text = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.begin))?;
            file.read_to_end(&mut text)
        });
        if let Err(error) = read {
            return format!("(cannot read {}: {error})", self.path.display());
        }
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.trim_end().lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// The data directory of an embedded Postgres.
#[derive(Debug)]
pub(super) struct Cluster {
    data_dir: PathBuf,
}

impl Cluster {
    /// The cluster in `data_dir`, which is made if missing.
    pub(super) fn open(data_dir: &Path) -> Result<Self, EmbeddedError> {
        fs::create_dir_all(data_dir).map_err(failed("create", data_dir))?;
        let data_dir = data_dir.canonicalize().map_err(failed("find", data_dir))?;
        Ok(Self { data_dir })
    }

    /// The cluster in `data_dir` if there is one.
    pub(super) fn existing(data_dir: &Path) -> Result<Option<Self>, EmbeddedError> {
        match data_dir.canonicalize() {
            Ok(data_dir) => Ok(Some(Self { data_dir }).filter(Self::exists)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("find", data_dir)(error)),
        }
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub(super) fn passfile(&self) -> PathBuf {
        self.data_dir.join("pgpass")
    }

    /// The directory of the socket, unless the socket's path is too long.
    pub(super) fn socket_dir(&self, port: u16) -> Option<PathBuf> {
        let directory = self.directory();
        let socket = directory.join(format!(".s.PGSQL.{port}"));
        (socket.as_os_str().len() <= SOCKET_PATH_LIMIT).then_some(directory)
    }

    /// Whether `initdb` has completed here: the directory gets its name only then.
    pub(super) fn exists(&self) -> bool {
        self.directory().is_dir()
    }

    /// The major version that wrote the cluster.
    pub(super) fn major_version(&self) -> Result<Option<u32>, EmbeddedError> {
        let text = read_if_exists(&self.directory().join("PG_VERSION"))?;
        Ok(text.and_then(|text| text.trim().parse().ok()))
    }

    pub(super) fn password(&self) -> Result<String, EmbeddedError> {
        let path = self.passfile();
        let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
        let password = text.trim_end().rsplit(':').next();
        Ok(password.unwrap_or_default().to_owned())
    }

    pub(super) fn remembered_port(&self) -> Option<u16> {
        fs::read_to_string(self.data_dir.join("port")).ok()?.trim().parse().ok()
    }

    pub(super) fn remember_port(&self, port: u16) -> Result<(), EmbeddedError> {
        let path = self.data_dir.join("port");
        fs::write(&path, format!("{port}\n")).map_err(failed("write", &path))
    }

    /// Makes this process the one whose Postgres this is.
    pub(super) fn lock(&self) -> Result<Lock, EmbeddedError> {
        let path = self.data_dir.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(failed("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(EmbeddedError::InUse { data_dir: self.data_dir.clone() }),
            Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
        }
    }

    /// What the running Postgres, or one that had no time to tidy up, wrote about itself.
    pub(super) fn postmaster_file(&self) -> Result<Option<PostmasterFile>, EmbeddedError> {
        let Some(text) = read_if_exists(&self.directory().join("postmaster.pid"))? else {
            return Ok(None);
        };
        let lines: Vec<_> = text.lines().collect();
        let Some(pid) = lines.first().and_then(|line| line.trim().parse().ok()).and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let options = read_if_exists(&self.directory().join("postmaster.opts"))?.unwrap_or_default();
        Ok(Some(PostmasterFile {
            pid,
            port: lines.get(3).and_then(|line| line.trim().parse().ok()),
            program: options.split(" \"").next().filter(|text| !text.is_empty()).map(PathBuf::from),
        }))
    }

    /// The process that is running Postgres on this cluster now.
    pub(super) fn running_postmaster(&self) -> Result<Option<Pid>, EmbeddedError> {
        let Some(file) = self.postmaster_file()? else {
            return Ok(None);
        };
        // After a crash of the machine the number may be another process's.
        let ours = if cfg!(target_os = "linux") {
            // Postgres lives in its data directory.
            let lives_in = fs::read_link(format!("/proc/{}/cwd", file.pid.as_raw_pid()));
            lives_in.is_ok_and(|lives_in| lives_in == self.directory())
        } else {
            let pid = file.pid.as_raw_pid().to_string();
            let command_line = Command::new("ps").args(["-o", "command=", "-p", &pid]).output();
            let directory = self.directory().display().to_string();
            command_line.is_ok_and(|line| String::from_utf8_lossy(&line.stdout).contains(&directory))
        };
        Ok(ours.then_some(file.pid))
    }

    /// Runs `initdb`. Its work gets its name only when it is complete, so an interrupted one is begun again.
    pub(super) async fn initialise(
        &self,
        installation: &Installation,
        durability: Durability,
    ) -> Result<(), EmbeddedError> {
        let account = self.account(installation)?;
        let unfinished = self.data_dir.join("cluster.unfinished");
        let password = Uuid::new_v4().simple().to_string();
        write_secret(&self.passfile(), &format!("*:*:*:{USER}:{password}\n"))?;

        // The builtin locale of later versions depends on no library of the system; else that of the system, if any.
        let locales: &[&[&str]] = match installation.major() {
            17.. => &[&["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]],
            _ => &[&["--locale=C.UTF-8"], &["--no-locale"]],
        };
        let mut output = String::new();
        for locale in locales {
            remove_if_exists(&unfinished)?;
            DirBuilder::new().mode(0o700).create(&unfinished).map_err(failed("create", &unfinished))?;
            give_to(&unfinished, account.as_ref())?;
            let program = installation.program("initdb");
            let mut command =
                process::command(&program, &unfinished, account.as_ref()).map_err(failed("open", &unfinished))?;
            command.stdin(self.password_as_input(&password, account.as_ref())?);
            command.args([
                "--pwfile=/dev/stdin",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--no-instructions",
                "-U",
                USER,
            ]);
            command.args(*locale);
            if durability == Durability::Throwaway {
                command.arg("--no-sync");
            }
            let done = run(command).await.map_err(failed("run", &program))?;
            if done.status.success() {
                let cluster = self.directory();
                return fs::rename(&unfinished, &cluster).map_err(failed("create", &cluster));
            }
            output = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        }
        Err(EmbeddedError::Initialise { output })
    }

    /// The command that runs Postgres, and where its log begins.
    pub(super) fn postgres_command(
        &self,
        installation: &Installation,
        port: u16,
        durability: Durability,
    ) -> Result<(Command, Log), EmbeddedError> {
        let account = self.account(installation)?;
        let directory = self.directory();
        let program = installation.program("postgres");
        let mut command =
            process::command(&program, &directory, account.as_ref()).map_err(failed("open", &directory))?;
        let mut set = |name: &str, value: &str| {
            command.arg("-c").arg(format!("{name}={value}"));
        };
        set("port", &port.to_string());
        set("listen_addresses", "127.0.0.1");
        // Relative to the cluster: nothing above it need be open to the account, and no path is too long.
        set("unix_socket_directories", ".");
        // To stderr, which is our file, whatever the distribution's sample configuration says.
        set("logging_collector", "off");
        set("log_destination", "stderr");
        set("timezone", "UTC");
        set("log_timezone", "UTC");
        // What initdb may have set lower on a small machine.
        set("shared_buffers", "128MB");
        // Tests share one cluster, with a server each or several.
        set("max_connections", if durability == Durability::Throwaway { "500" } else { "100" });
        // Full pages after a checkpoint are most of what a busy ledger logs, and compress well.
        set("wal_compression", "on");
        // Compiling a statistics query takes longer than running it.
        set("jit", "off");
        if durability == Durability::Throwaway {
            set("fsync", "off");
            set("synchronous_commit", "off");
            set("full_page_writes", "off");
        }
        let path = self.data_dir.join("postgres.log");
        let mut log =
            OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(failed("open", &path))?;
        if log.metadata().map_err(failed("read", &path))?.len() > LOG_LIMIT {
            log.set_len(0).map_err(failed("truncate", &path))?;
        }
        let begin = log.seek(SeekFrom::End(0)).map_err(failed("read", &path))?;
        let errors = log.try_clone().map_err(failed("open", &path))?;
        command.stdout(Stdio::from(log)).stderr(Stdio::from(errors));
        Ok((command, Log { path, begin }))
    }

    /// As whom Postgres runs: as we ourselves, and if we are root, as the cluster's owner, else as the first account
    /// that exists. Complains when that account cannot get to the programs or the data.
    fn account(&self, installation: &Installation) -> Result<Option<Account>, EmbeddedError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let owner = fs::metadata(self.directory()).ok().filter(|owner| owner.uid() != 0);
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let account = match owner {
            Some(owner) => Account { name: format!("with id {}", owner.uid()), uid: owner.uid(), gid: owner.gid() },
            None => ACCOUNTS.iter().find_map(|name| account(&passwd, name)).ok_or(EmbeddedError::NoAccount)?,
        };
        let mut reached = vec![(installation.program("postgres"), "NEWCYCLE_POSTGRES_BIN or NEWCYCLE_POSTGRES_CACHE")];
        // On Linux the directory is passed on open, and its parents do not matter.
        if !cfg!(target_os = "linux") {
            reached.push((self.directory(), "NEWCYCLE_DATA_DIR"));
        }
        for (path, variable) in reached {
            if let Some(directory) = closed_parent(&path, &account) {
                return Err(EmbeddedError::Unreachable { account: account.name, path, directory, variable });
            }
        }
        Ok(Some(account))
    }

    /// A file with the password alone, without a name, that `account` may read.
    fn password_as_input(&self, password: &str, account: Option<&Account>) -> Result<Stdio, EmbeddedError> {
        let path = self.data_dir.join("password.unfinished");
        write_secret(&path, &format!("{password}\n"))?;
        give_to(&path, account)?;
        let file = File::open(&path).map_err(failed("read", &path))?;
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        Ok(file.into())
    }

    /// Postgres' own data directory.
    fn directory(&self) -> PathBuf {
        self.data_dir.join("cluster")
    }
}

/// Runs a program to its end on a thread that may block.
async fn run(mut command: Command) -> io::Result<std::process::Output> {
    let output = tokio::task::spawn_blocking(move || command.output());
    output.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

/// The account called `name` in the text of `/etc/passwd`.
fn account(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account { name: name.to_owned(), uid, gid })
    })
}

/// The outermost parent of `path` that `account` may not search.
fn closed_parent(path: &Path, account: &Account) -> Option<PathBuf> {
    let mut parents: Vec<_> = path.ancestors().skip(1).collect();
    parents.reverse();
    let closed = parents.into_iter().find(|parent| {
        fs::metadata(parent).is_ok_and(|metadata| {
            let search = match () {
                () if metadata.uid() == account.uid => 0o100,
                () if metadata.gid() == account.gid => 0o010,
                () => 0o001,
            };
            metadata.mode() & search == 0
        })
    });
    closed.map(Path::to_owned)
}

fn give_to(path: &Path, account: Option<&Account>) -> Result<(), EmbeddedError> {
    let Some(account) = account else {
        return Ok(());
    };
    chown(path, Some(account.uid), Some(account.gid)).map_err(failed("change the owner of", path))
}

/// Writes a file that only its owner can read, anew.
fn write_secret(path: &Path, text: &str) -> Result<(), EmbeddedError> {
    remove_if_exists(path)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed("write", path))
}

fn read_if_exists(path: &Path) -> Result<Option<String>, EmbeddedError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn remove_if_exists(path: &Path) -> Result<(), EmbeddedError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EmbeddedError {
    move |source| EmbeddedError::File { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\npostgres2:x:7:7::/:/bin/sh\npostgres:x:101:104:x,,,:/var:/bin/sh\n";
        assert_eq!(account(passwd, "postgres"), Some(Account { name: "postgres".to_owned(), uid: 101, gid: 104 }));
        assert_eq!(account(passwd, "nobody"), None);
    }

    #[test]
    fn the_outermost_closed_parent_is_named() {
        let root = tempfile::tempdir().unwrap();
        let closed = root.path().join("closed");
        fs::create_dir_all(closed.join("bin")).unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        let nobody = Account { name: "nobody".to_owned(), uid: 65_534, gid: 65_534 };
        assert_eq!(closed_parent(&closed.join("bin/postgres"), &nobody), Some(closed));
    }
}
