//! A client that speaks HTTP itself, byte by byte, in the open or encrypted.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{PATIENCE, Server};

pub struct Client<S = TcpStream> {
    socket: S,
    received: String,
}

impl Client {
    pub async fn connect(server: &Server) -> Self {
        Self::on(TcpStream::connect(server.address).await.expect("a connection"))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub fn on(socket: S) -> Self {
        Self { socket, received: String::new() }
    }

    pub async fn send(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).await.expect("the server reads");
        self.socket.flush().await.expect("the server reads");
    }

    /// Sends what the server may not want to hear any more.
    pub async fn try_send(&mut self, text: &str) -> std::io::Result<()> {
        self.socket.write_all(text.as_bytes()).await?;
        self.socket.flush().await
    }

    /// Everything up to this text, which is taken.
    pub async fn until(&mut self, text: &str) -> String {
        let reading = async {
            loop {
                if let Some(at) = self.received.find(text) {
                    let rest = self.received.split_off(at + text.len());
                    return std::mem::replace(&mut self.received, rest);
                }
                assert!(self.read().await, "{:?} ends without {text:?}", self.received);
            }
        };
        timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("waited in vain for {text:?}"))
    }

    /// Everything until the server closes the connection, in order.
    pub async fn rest(mut self) -> String {
        timeout(PATIENCE, async { while self.read().await {} }).await.expect("the connection ends");
        self.received
    }

    /// Says that nothing more will come; what is left of the connection.
    pub async fn finish(mut self) -> S {
        self.socket.shutdown().await.expect("the server listens");
        self.socket
    }

    async fn read(&mut self) -> bool {
        let mut buffer = vec![0; 65_536];
        let read = self.socket.read(&mut buffer).await.expect("the connection holds");
        self.received.push_str(std::str::from_utf8(&buffer[..read]).expect("UTF-8"));
        read > 0
    }
}

/// A request for a stream, or for something else.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n")
}

/// A stream that tells little.
pub const STREAM: &str = "/statistics/stream?metrics=user-creation&resolution=year";

/// The payload of chunks (RFC 9112, 7.1), up to the last one if that is there.
pub fn unchunked(mut body: &str) -> (String, bool) {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a size");
        if size == 0 {
            assert_eq!(rest, "\r\n", "nothing follows the end");
            return (text, true);
        }
        text.push_str(&rest[..size]);
        body = rest[size..].strip_prefix("\r\n").expect("the end of a chunk");
    }
    (text, false)
}
