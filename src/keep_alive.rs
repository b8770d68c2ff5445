//! Notices that the other end of a connection is not there any more.
//!
//! A host that loses its power, or a firewall that forgets a connection, tells nobody. Whoever waits for an answer then waits
//! for ever, and what was sent is sent again for a quarter of an hour. TCP can ask (keep-alive, RFC 9293, 3.8.4) and give up
//! sooner (user timeout, RFC 5482); it has to be told to.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

/// How a connection is watched.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    /// The other end is asked when it has said nothing for so long.
    pub idle: Duration,
    /// And so often again, if it does not answer.
    pub interval: Duration,
    /// How often in vain, until the connection is given up.
    pub retries: u32,
    /// What was sent and is not confirmed, or not taken, for so long, ends the connection.
    pub user_timeout: Duration,
}

impl KeepAlive {
    /// Of connections to Postgres. A dead one is noticed within 11 seconds while an answer is awaited, within 30 if the question
    /// did not arrive. Somebody who holds a lock may keep Postgres from taking rows for as long.
    pub const DATABASE: Self = Self {
        idle: Duration::from_secs(5),
        interval: Duration::from_secs(2),
        retries: 3,
        user_timeout: Duration::from_secs(30),
    };

    /// Gives up within about so long: the kernel counts in whole seconds.
    pub fn within(limit: Duration) -> Self {
        let interval = (limit / 8).max(Duration::from_secs(1));
        Self { idle: (limit / 2).max(Duration::from_secs(1)), interval, retries: 3, user_timeout: limit }
    }

    /// Has the kernel watch a connection.
    pub fn watch(&self, socket: impl AsFd) -> io::Result<()> {
        let socket = socket.as_fd();
        sockopt::set_socket_keepalive(socket, true)?;
        sockopt::set_tcp_keepidle(socket, self.idle)?;
        sockopt::set_tcp_keepintvl(socket, self.interval)?;
        sockopt::set_tcp_keepcnt(socket, self.retries)?;
        #[cfg(target_os = "linux")]
        sockopt::set_tcp_user_timeout(socket, u32::try_from(self.user_timeout.as_millis()).unwrap_or(u32::MAX))?;
        Ok(())
    }
}

/// Has the kernel watch all connections of this process that lead to one of these ports: those of libraries that have no
/// setting for it (sqlx: transact-rs/sqlx#3540). One that leads to the same port of another host is watched, too, which does no
/// harm.
#[cfg(target_os = "linux")]
pub fn watch_all(ports: &[u16], how: KeepAlive) -> io::Result<()> {
    use std::os::fd::{BorrowedFd, RawFd};

    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        // SAFETY: the number is that of an open file, or was a moment ago. It is asked whether it is a socket that leads to the
        // port; should another have taken its place meanwhile, that one is asked.
        #[expect(unsafe_code, reason = "the library that owns the socket does not lend it")]
        let socket = unsafe { BorrowedFd::borrow_raw(number) };
        let peer = rustix::net::getpeername(socket).ok().flatten();
        let peer = peer.and_then(|peer| std::net::SocketAddr::try_from(peer).ok());
        if peer.is_some_and(|peer| ports.contains(&peer.port())) && !sockopt::socket_keepalive(socket).unwrap_or(true) {
            how.watch(socket)?;
        }
    }
    Ok(())
}

/// Elsewhere there is no list of open files to look at.
#[cfg(not(target_os = "linux"))]
pub fn watch_all(_: &[u16], _: KeepAlive) -> io::Result<()> {
    Ok(())
}
