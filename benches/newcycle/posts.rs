//! Requests over many keep-alive connections, from one thread.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::figures::{Latencies, latencies, nanoseconds};
use crate::http::Head;
use crate::poll::Poll;

/// Requests that are under way at the end have this long to be answered.
const LAST_ANSWERS: Duration = Duration::from_secs(30);
/// How long to wait for sockets when nothing is to be sent.
const IDLE: Duration = Duration::from_millis(100);
/// More than the answer to one insert.
const READ_SIZE: usize = 16 * 1024;

/// What became of the requests.
#[derive(Debug)]
pub(crate) struct Answers {
    /// How many succeeded in all, those of the warm-up included.
    pub(crate) acknowledged: u64,
    /// How many a second succeeded while it was measured.
    pub(crate) rate: f64,
    /// From when a request was to be sent to its answer, while it was measured.
    pub(crate) latencies: Latencies,
}

/// Sends these requests in turns on each connection as soon as the one before is answered: how many are possible.
pub(crate) fn saturate(
    address: SocketAddr,
    requests: &[Vec<u8>],
    connections: usize,
    warm_up: Duration,
    measured: Duration,
) -> Outcome<Answers> {
    let mut load = Load::open(address, requests, connections)?;
    let begin = Instant::now() + warm_up;
    let end = begin + measured;
    let mut counted = 0_u64;
    for number in 0..connections {
        load.send(number, Instant::now())?;
    }
    while load.under_way > 0 {
        let now = Instant::now();
        if now > end + LAST_ANSWERS {
            return Err(format!("{} requests were not answered", load.under_way).into());
        }
        load.receive(IDLE)?;
        while let Some(Answer { connection, sent, received }) = load.answered.pop() {
            if received >= begin && received < end {
                counted += 1;
                load.latencies.saturating_record(nanoseconds(received - sent));
            }
            if received < end {
                load.send(connection, received)?;
            }
        }
    }
    Ok(Answers {
        acknowledged: load.acknowledged,
        rate: counted as f64 / measured.as_secs_f64(),
        latencies: load.latencies,
    })
}

/// Sends a request at each of these moments, whatever became of those before: how long they take at that rate. When no
/// connection is free the request waits, and its latency counts from the moment at which it was to be sent.
pub(crate) fn on_schedule(
    address: SocketAddr,
    requests: &[Vec<u8>],
    connections: usize,
    schedule: &[Instant],
) -> Outcome<Answers> {
    let mut load = Load::open(address, requests, connections)?;
    let mut free: Vec<usize> = (0..connections).collect();
    let mut due = schedule.iter().copied().peekable();
    let begun = Instant::now();
    while due.peek().is_some() || load.under_way > 0 {
        let now = Instant::now();
        while let Some(moment) = due.next_if(|moment| *moment <= now && !free.is_empty()) {
            if let Some(connection) = free.pop() {
                load.send(connection, moment)?;
            }
        }
        let patience = match due.peek() {
            Some(moment) if !free.is_empty() => moment.saturating_duration_since(Instant::now()),
            _ => IDLE,
        };
        load.receive(patience)?;
        while let Some(Answer { connection, sent, received }) = load.answered.pop() {
            load.latencies.saturating_record(nanoseconds(received.saturating_duration_since(sent)));
            free.push(connection);
        }
        if schedule.last().is_some_and(|last| Instant::now() > *last + LAST_ANSWERS) {
            return Err(format!("{} requests were not answered", load.under_way).into());
        }
    }
    let rate = load.acknowledged as f64 / begun.elapsed().as_secs_f64();
    Ok(Answers { acknowledged: load.acknowledged, rate, latencies: load.latencies })
}

struct Answer {
    connection: usize,
    sent: Instant,
    received: Instant,
}

struct Load<'a> {
    poll: Poll,
    sockets: Vec<Socket>,
    requests: &'a [Vec<u8>],
    sent: usize,
    under_way: usize,
    acknowledged: u64,
    answered: Vec<Answer>,
    latencies: Latencies,
    buffer: Vec<u8>,
}

struct Socket {
    stream: TcpStream,
    /// The beginning of an answer that did not come at once.
    begun: Vec<u8>,
    sent: Instant,
}

impl<'a> Load<'a> {
    fn open(address: SocketAddr, requests: &'a [Vec<u8>], connections: usize) -> Outcome<Self> {
        let poll = Poll::new()?;
        let mut sockets = Vec::new();
        for number in 0..connections {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            poll.add(&stream, number)?;
            sockets.push(Socket { stream, begun: Vec::new(), sent: Instant::now() });
        }
        Ok(Self {
            poll,
            sockets,
            requests,
            sent: 0,
            under_way: 0,
            acknowledged: 0,
            answered: Vec::new(),
            latencies: latencies(),
            buffer: vec![0; READ_SIZE],
        })
    }

    /// Sends the next request; its latency counts from `due`. A request is far smaller than the socket's buffer.
    fn send(&mut self, connection: usize, due: Instant) -> Outcome<()> {
        let socket = &mut self.sockets[connection];
        socket.stream.write_all(&self.requests[self.sent % self.requests.len()])?;
        socket.sent = due;
        self.sent += 1;
        self.under_way += 1;
        Ok(())
    }

    /// Waits for answers and puts them into [`Load::answered`].
    fn receive(&mut self, patience: Duration) -> Outcome<()> {
        for number in self.poll.wait(patience)? {
            let socket = &mut self.sockets[number];
            let read = match socket.stream.read(&mut self.buffer) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            let received = Instant::now();
            let whole = if socket.begun.is_empty() {
                &self.buffer[..read]
            } else {
                socket.begun.extend_from_slice(&self.buffer[..read]);
                &socket.begun
            };
            match Head::parse(whole)? {
                Some(head) if whole.len() >= head.length + head.content_length => {
                    if !(200..300).contains(&head.status) {
                        return Err(format!("refused: {}", String::from_utf8_lossy(whole)).into());
                    }
                }
                _ => {
                    if socket.begun.is_empty() {
                        socket.begun.extend_from_slice(&self.buffer[..read]);
                    }
                    continue;
                }
            }
            socket.begun.clear();
            self.under_way -= 1;
            self.acknowledged += 1;
            self.answered.push(Answer { connection: number, sent: socket.sent, received });
        }
        Ok(())
    }
}
