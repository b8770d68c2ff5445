//! Callers who ask again as soon as they are answered, whatever the answer is.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::http::Head;
use crate::poll::Poll;

/// So many connections are opened between two looks at the answers, until there are as many as there shall be.
const OPENED_AT_ONCE: usize = 100;
/// How long is waited for answers while there are connections to open.
const OPENING: Duration = Duration::from_millis(1);
/// How often the thread looks whether it shall end while nothing is answered.
const IDLE: Duration = Duration::from_millis(20);
/// Requests that are under way at the end have this long to be answered.
const LAST_ANSWERS: Duration = Duration::from_secs(30);
/// More than a refusal has, or most messages of a stream.
const READ_SIZE: usize = 16 * 1024;

/// What is asked for again and again.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    /// Answers to these requests, in turns. What was sent is answered in the end: it may have been done.
    Answers(Vec<Vec<u8>>),
    /// One of these streams on each connection. Those that are open are read, those that are refused are asked for again.
    Streams(Vec<Vec<u8>>),
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Answers by their status.
    pub(crate) answers: BTreeMap<u16, u64>,
    /// Connections that the server closed; another one was opened for each.
    pub(crate) closed: u64,
    /// For how long it was asked.
    pub(crate) taken: Duration,
}

/// Callers on many connections, in one thread. They leave when this is dropped.
#[derive(Debug)]
pub(crate) struct Barrage {
    stop: Sender<()>,
    thread: JoinHandle<Outcome<Tally>>,
}

impl Barrage {
    /// Begins, and goes on until the end.
    pub(crate) fn begin(address: SocketAddr, wish: Wish, connections: usize) -> Outcome<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("barrage".to_owned()).spawn(move || {
            let mut callers = Callers::new(address, wish)?;
            callers.call(connections, &stopped)?;
            Ok(callers.tally)
        })?;
        Ok(Self { stop, thread })
    }

    /// Ends it; how it went.
    pub(crate) async fn end(self) -> Outcome<Tally> {
        drop(self.stop);
        let ended = tokio::task::spawn_blocking(move || self.thread.join()).await?;
        ended.map_err(|_| "the callers panicked")?
    }
}

struct Callers {
    poll: Poll,
    address: SocketAddr,
    wish: Wish,
    callers: Vec<Caller>,
    sent: usize,
    /// Those whose turn it is to send, and those who need another connection first.
    answered: Vec<usize>,
    closed: Vec<usize>,
    tally: Tally,
    buffer: Vec<u8>,
}

struct Caller {
    socket: TcpStream,
    /// The beginning of an answer that did not come at once.
    begun: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Answered,
    /// It has its stream.
    Reading,
}

impl Callers {
    fn new(address: SocketAddr, wish: Wish) -> Outcome<Self> {
        Ok(Self {
            poll: Poll::new()?,
            address,
            wish,
            callers: Vec::new(),
            sent: 0,
            answered: Vec::new(),
            closed: Vec::new(),
            tally: Tally::default(),
            buffer: vec![0; READ_SIZE],
        })
    }

    fn call(&mut self, connections: usize, stopped: &Receiver<()>) -> Outcome<()> {
        let begun = Instant::now();
        while stopped.try_recv() == Err(TryRecvError::Empty) {
            let missing = connections - self.callers.len();
            for number in self.callers.len()..self.callers.len() + missing.min(OPENED_AT_ONCE) {
                let socket = self.connect(number)?;
                self.callers.push(Caller { socket, begun: Vec::new(), state: State::Answered });
                self.answered.push(number);
            }
            while let Some(number) = self.closed.pop() {
                let socket = self.connect(number)?;
                self.callers[number] = Caller { socket, begun: Vec::new(), state: State::Answered };
                self.answered.push(number);
            }
            while let Some(number) = self.answered.pop() {
                self.send(number)?;
            }
            self.receive(if missing > 0 { OPENING } else { IDLE })?;
        }
        self.tally.taken = begun.elapsed();
        if matches!(self.wish, Wish::Answers(_)) { self.receive_last() } else { Ok(()) }
    }

    fn receive_last(&mut self) -> Outcome<()> {
        let deadline = Instant::now() + LAST_ANSWERS;
        while self.callers.iter().any(|caller| caller.state == State::Waiting) {
            if Instant::now() > deadline {
                return Err("not all requests of a flood were answered".into());
            }
            self.receive(IDLE)?;
        }
        Ok(())
    }

    fn connect(&self, number: usize) -> Outcome<TcpStream> {
        let socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        self.poll.add(&socket, number)?;
        Ok(socket)
    }

    /// Sends the next request, which is far smaller than the socket's buffer.
    fn send(&mut self, number: usize) -> Outcome<()> {
        let (Wish::Answers(requests) | Wish::Streams(requests)) = &self.wish;
        let request = &requests[self.sent % requests.len()];
        let caller = &mut self.callers[number];
        match caller.socket.write_all(request) {
            Ok(()) => {
                self.sent += 1;
                caller.state = State::Waiting;
            }
            // What there is to read says the same.
            Err(error) if is_end(&error) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn receive(&mut self, patience: Duration) -> Outcome<()> {
        for number in self.poll.wait(patience)? {
            let caller = &mut self.callers[number];
            let read = match caller.socket.read(&mut self.buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) if is_end(&error) => 0,
                Err(error) => return Err(error.into()),
            };
            if read == 0 {
                caller.state = State::Answered;
                self.tally.closed += 1;
                self.closed.push(number);
                continue;
            }
            if caller.state == State::Reading {
                continue;
            }
            caller.begun.extend_from_slice(&self.buffer[..read]);
            let Some(head) = Head::parse(&caller.begun)? else { continue };
            let is_stream = head.chunked && head.status == 200;
            if !is_stream && caller.begun.len() < head.length + head.content_length {
                continue;
            }
            *self.tally.answers.entry(head.status).or_default() += 1;
            caller.begun.clear();
            if is_stream {
                caller.state = State::Reading;
            } else {
                caller.state = State::Answered;
                self.answered.push(number);
            }
        }
        Ok(())
    }
}

/// Whether the server does not want this connection any more.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
}
