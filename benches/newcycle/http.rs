//! HTTP/1.1, as little of it as a load generator needs: requests are rendered once and sent again and again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::Outcome;

/// Our servers send some ten headers.
const MOST_HEADERS: usize = 32;
/// An answer that takes longer than this will not come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// How much is read at once.
const READ_SIZE: usize = 64 * 1024;
/// Who requests are sent to: a server that nobody has to say who they are to answers to this machine's names only.
const HOST: &str = "localhost";

/// A request without a body.
pub(crate) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n").into_bytes()
}

/// A request for a stream of events.
pub(crate) fn get_events(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\naccept: text/event-stream\r\n\r\n").into_bytes()
}

/// A request with a body.
pub(crate) fn post(path: &str, content_type: &str, body: &str) -> Vec<u8> {
    let mut request = post_head(path, content_type, body.len() as u64);
    request.extend_from_slice(body.as_bytes());
    request
}

/// The head of a request whose body follows.
pub(crate) fn post_head(path: &str, content_type: &str, length: u64) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
    );
    head.into_bytes()
}

/// A request to remove something.
pub(crate) fn delete(path: &str) -> Vec<u8> {
    format!("DELETE {path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n").into_bytes()
}

/// The same request from the holder of a key.
pub(crate) fn with_key(request: &[u8], key: &str) -> Vec<u8> {
    with_header(request, "authorization", &format!("Bearer {key}"))
}

/// The same request with one more header.
pub(crate) fn with_header(request: &[u8], name: &str, value: &str) -> Vec<u8> {
    let line = request.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let (line, rest) = request.split_at(line);
    [line, format!("{name}: {value}\r\n").as_bytes(), rest].concat()
}

/// The head of a response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Where the body begins.
    pub(crate) length: usize,
    pub(crate) chunked: bool,
    pub(crate) content_length: usize,
}

impl Head {
    /// Reads it, if it is complete.
    pub(crate) fn parse(bytes: &[u8]) -> Outcome<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = response.parse(bytes)? else { return Ok(None) };
        let status = response.code.unwrap_or_default();
        let mut head = Self { status, length, chunked: false, content_length: 0 };
        for header in response.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                head.content_length = std::str::from_utf8(header.value)?.trim().parse()?;
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                head.chunked = header.value.eq_ignore_ascii_case(b"chunked");
            }
        }
        Ok(Some(head))
    }
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// A keep-alive connection for one request after the other.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Outcome<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { socket, buffer: Vec::new() })
    }

    /// Sends a request and waits for the response.
    pub(crate) fn send(&mut self, request: &[u8]) -> Outcome<Response> {
        self.socket.write_all(request)?;
        self.receive()
    }

    /// Sends a request whose body is a file, and waits for the response.
    pub(crate) fn send_file(&mut self, path: &str, content_type: &str, mut file: std::fs::File) -> Outcome<Response> {
        self.socket.write_all(&post_head(path, content_type, file.metadata()?.len()))?;
        std::io::copy(&mut file, &mut self.socket)?;
        self.receive()
    }

    fn receive(&mut self) -> Outcome<Response> {
        let mut filled = 0;
        loop {
            if self.buffer.len() < filled + READ_SIZE {
                self.buffer.resize(filled + READ_SIZE, 0);
            }
            match self.socket.read(&mut self.buffer[filled..])? {
                0 => return Err("the server closed the connection".into()),
                read => filled += read,
            }
            let Some(head) = Head::parse(&self.buffer[..filled])? else { continue };
            if filled >= head.length + head.content_length {
                let body = self.buffer[head.length..head.length + head.content_length].to_vec();
                return Ok(Response { status: head.status, body });
            }
        }
    }
}
