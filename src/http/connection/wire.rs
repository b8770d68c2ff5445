//! What a stream goes on with when it has taken a connection over: the bare socket, or the socket and the TLS session.

use std::io::{self, IoSlice, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::ServerConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// So much of a message is encrypted at once, a record's worth: what a slow reader does not take of it stays in memory for
/// this reader alone, where the message itself is shared.
const ENCRYPTED_AT_ONCE: usize = 16 * 1024;

/// What hyper is given, and what of it is left for a stream.
pub(super) trait Carrier: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// For a stream.
    type Wire: Wire;
    /// Leaves the rest behind. Everything that was written has been flushed.
    fn into_wire(self) -> Self::Wire;
}

/// The way to the reader of a stream.
pub(in crate::http) trait Wire: Send + Sync + 'static {
    /// Takes as much as there is room for.
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Hands on what was taken and is not yet with the kernel; what there is no room for is an error that says so.
    fn try_flush(&self) -> io::Result<()>;

    /// Waits until there may be room.
    fn writable(&self) -> impl Future<Output = io::Result<()>> + Send;

    /// Waits until the reader has closed the connection. What it sends meanwhile is of no interest.
    fn gone(&self) -> impl Future<Output = ()> + Send;

    /// Says that nothing more will come, if there is room for that.
    fn end(&self);
}

impl Carrier for TcpStream {
    type Wire = Self;

    fn into_wire(self) -> Self {
        self
    }
}

impl Wire for TcpStream {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Self::try_write_vectored(self, slices)
    }

    fn try_flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn writable(&self) -> impl Future<Output = io::Result<()>> + Send {
        Self::writable(self)
    }

    async fn gone(&self) {
        while self.readable().await.is_ok() {
            match self.try_read(&mut [0; 512]) {
                Ok(0) => return,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                _ => {}
            }
        }
    }

    /// That is what closing the socket says.
    fn end(&self) {}
}

/// A socket and the TLS session on it.
pub(super) struct EncryptedWire {
    socket: TcpStream,
    /// Reading and writing change the session alike. Both go on in one task, so nobody ever waits here. In a box, as it is
    /// large and futures are moved about.
    session: Box<Mutex<ServerConnection>>,
}

impl Carrier for Box<TlsStream<TcpStream>> {
    type Wire = EncryptedWire;

    fn into_wire(self) -> EncryptedWire {
        let (socket, mut session) = (*self).into_inner();
        session.set_buffer_limit(Some(ENCRYPTED_AT_ONCE));
        EncryptedWire { socket, session: Box::new(Mutex::new(session)) }
    }
}

impl EncryptedWire {
    fn session(&self) -> MutexGuard<'_, ServerConnection> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, session: &mut ServerConnection) -> io::Result<()> {
        while session.wants_write() {
            session.write_tls(&mut Direct(&self.socket))?;
        }
        Ok(())
    }

    /// Throws away what the reader said. Whether it still listens.
    fn is_listening(&self, session: &mut ServerConnection) -> bool {
        let is_sound = session.process_new_packets().is_ok();
        // It may be owed an answer about keys, or an alert; without room for that now, it goes with the next message.
        let _ = self.send(session);
        loop {
            match session.reader().read(&mut [0; 512]) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return is_sound,
                // It has said that it is leaving, or it just left.
                Ok(0) | Err(_) => return false,
            }
        }
    }
}

impl Wire for EncryptedWire {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut session = self.session();
        self.send(&mut session)?;
        let taken = session.writer().write_vectored(slices)?;
        match self.send(&mut session) {
            // It has been taken all the same, and `try_flush` tells.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(taken),
            sent => sent.map(|()| taken),
        }
    }

    fn try_flush(&self) -> io::Result<()> {
        self.send(&mut self.session())
    }

    fn writable(&self) -> impl Future<Output = io::Result<()>> + Send {
        self.socket.writable()
    }

    async fn gone(&self) {
        // The session may have read something already that nobody has looked at.
        let mut listens = self.is_listening(&mut self.session());
        while listens && self.socket.readable().await.is_ok() {
            let mut session = self.session();
            listens = match session.read_tls(&mut Direct(&self.socket)) {
                Ok(0) => false,
                Ok(_) => self.is_listening(&mut session),
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            };
        }
    }

    fn end(&self) {
        let mut session = self.session();
        session.send_close_notify();
        let _ = self.send(&mut session);
    }
}

/// A socket as rustls wants it: it reads and writes at once or not at all.
struct Direct<'a>(&'a TcpStream);

impl Read for Direct<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Direct<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
