//! Readers of many streams, in one thread.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::figures::{Latencies, latencies, nanoseconds};
use crate::inbox::{Inbox, News, Reader};
use crate::poll::Poll;

/// So many streams are opened at once: fewer than servers let wait to be accepted, since one too many waits a second.
const OPENED_AT_ONCE: usize = 100;
/// A stream that has not begun by then will not.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the thread looks whether something is asked of it while nothing arrives.
const IDLE: Duration = Duration::from_millis(5);
/// How often it is asked whether everything has arrived.
const ARRIVAL_POLL: Duration = Duration::from_millis(5);
/// A message has some 200 bytes, a snapshot some thousand.
const READ_SIZE: usize = 64 * 1024;

/// When a stream counts as open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Open {
    /// The response has begun.
    WithHead,
    /// So many snapshots have come.
    WithSnapshots(usize),
}

/// When a stream first showed that so many inserts have happened since [`Watch::record`]: the first is number 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) number: usize,
    pub(crate) at: Instant,
}

/// How the streams are.
#[derive(Clone, Debug)]
pub(crate) struct Survey {
    /// The sum of its counts in the stream that is behind all others.
    pub(crate) least: i64,
    /// The same in the one that is ahead.
    pub(crate) most: i64,
    /// Messages with changes since arrivals are recorded, and how many bytes of text they had.
    pub(crate) updates: u64,
    pub(crate) update_bytes: u64,
    /// When the last of them came.
    pub(crate) last_update: Option<Instant>,
    /// How often a stream was told that it is stale.
    pub(crate) stale: u64,
}

/// How long inserts took to arrive from these moments on, one for each. Each counts once for every stream.
pub(crate) fn since(moments: &[Instant], arrivals: &[Arrival]) -> Latencies {
    let mut taken = latencies();
    for arrival in arrivals {
        if let Some(moment) = moments.get(arrival.number) {
            taken.saturating_record(nanoseconds(arrival.at.saturating_duration_since(*moment)));
        }
    }
    taken
}

/// The counts of a stream: by metric and time of the bucket.
pub(crate) type Counts = BTreeMap<(String, String), i64>;

enum Command {
    Record(i64, Sender<()>),
    Arrivals(Sender<Vec<Arrival>>),
    Survey(Sender<Survey>),
    Counts(Sender<Vec<Counts>>),
}

/// Open streams. They are closed when this is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    commands: Sender<Command>,
    /// Why the readers gave up.
    failure: Arc<OnceLock<String>>,
}

impl Watch {
    /// Opens streams and waits until all are open.
    pub(crate) async fn open(address: SocketAddr, request: Vec<u8>, streams: usize, open: Open) -> Outcome<Self> {
        let (commands, receiver) = mpsc::channel();
        let (opened, is_open) = tokio::sync::oneshot::channel();
        let failure = Arc::new(OnceLock::new());
        let watch = Self { commands, failure: Arc::clone(&failure) };
        std::thread::Builder::new().name("watch".to_owned()).spawn(move || {
            let followed = Streams::open(address, &request, streams, open).and_then(|mut streams| {
                let _ = opened.send(());
                streams.follow(&receiver)
            });
            if let Err(error) = followed {
                let _ = failure.set(error.to_string());
            }
        })?;
        match is_open.await {
            Ok(()) => Ok(watch),
            Err(_) => Err(watch.reason()),
        }
    }

    /// From here on it is recorded when counts beyond this one arrive.
    pub(crate) fn record(&self, base: i64) -> Outcome<()> {
        self.ask(|reply| Command::Record(base, reply))
    }

    /// What was recorded, of all streams.
    pub(crate) fn arrivals(&self) -> Outcome<Vec<Arrival>> {
        self.ask(Command::Arrivals)
    }

    pub(crate) fn survey(&self) -> Outcome<Survey> {
        self.ask(Command::Survey)
    }

    pub(crate) fn counts(&self) -> Outcome<Vec<Counts>> {
        self.ask(Command::Counts)
    }

    /// Waits until every stream shows this sum.
    pub(crate) async fn until(&self, total: i64, patience: Duration) -> Outcome<Survey> {
        let survey = self.settled(total, patience).await?;
        if survey.least < total {
            return Err(format!("NOT EXACT: {total} are to be seen, a stream shows {}", survey.least).into());
        }
        Ok(survey)
    }

    /// Waits until every stream shows this sum, or no longer.
    pub(crate) async fn settled(&self, total: i64, patience: Duration) -> Outcome<Survey> {
        let deadline = Instant::now() + patience;
        loop {
            let survey = self.survey()?;
            if survey.least >= total || Instant::now() > deadline {
                return Ok(survey);
            }
            tokio::time::sleep(ARRIVAL_POLL).await;
        }
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Outcome<T> {
        let (reply, answer) = mpsc::channel();
        let sent = self.commands.send(command(reply));
        match sent.ok().and_then(|()| answer.recv().ok()) {
            Some(answer) => Ok(answer),
            None => Err(self.reason()),
        }
    }

    fn reason(&self) -> Box<dyn std::error::Error + Send + Sync> {
        self.failure.get().map_or("the readers ended", String::as_str).into()
    }
}

struct Stream {
    socket: TcpStream,
    inbox: Inbox,
    snapshots: usize,
    /// By the number of the bucket.
    counts: Vec<(u8, i64)>,
    total: i64,
}

struct Streams {
    poll: Poll,
    streams: Vec<Stream>,
    reader: Reader,
    /// The count that inserts are numbered from.
    base: Option<i64>,
    arrivals: Vec<Arrival>,
    survey: Survey,
    buffer: Vec<u8>,
}

impl Streams {
    fn open(address: SocketAddr, request: &[u8], number: usize, open: Open) -> Outcome<Self> {
        let survey = Survey { least: 0, most: 0, updates: 0, update_bytes: 0, last_update: None, stale: 0 };
        let mut streams = Self {
            poll: Poll::new()?,
            streams: Vec::with_capacity(number),
            reader: Reader::default(),
            base: None,
            arrivals: Vec::new(),
            survey,
            buffer: vec![0; READ_SIZE],
        };
        while streams.streams.len() < number {
            let begin = streams.streams.len();
            for _ in begin..number.min(begin + OPENED_AT_ONCE) {
                streams.connect(address, request)?;
            }
            let deadline = Instant::now() + OPEN_TIMEOUT;
            while !streams.streams[begin..].iter().all(|stream| stream.is_open(open)) {
                if Instant::now() > deadline {
                    return Err("not all streams began in time".into());
                }
                streams.receive()?;
            }
        }
        Ok(streams)
    }

    fn connect(&mut self, address: SocketAddr, request: &[u8]) -> Outcome<()> {
        let mut socket = TcpStream::connect(address)?;
        socket.write_all(request)?;
        socket.set_nonblocking(true)?;
        self.poll.add(&socket, self.streams.len())?;
        self.streams.push(Stream { socket, inbox: Inbox::default(), snapshots: 0, counts: Vec::new(), total: 0 });
        Ok(())
    }

    /// Reads until nobody asks any more.
    fn follow(&mut self, commands: &Receiver<Command>) -> Outcome<()> {
        loop {
            match commands.try_recv() {
                Ok(Command::Record(base, reply)) => {
                    self.base = Some(base);
                    self.arrivals.clear();
                    self.survey.updates = 0;
                    self.survey.update_bytes = 0;
                    let _ = reply.send(());
                }
                Ok(Command::Arrivals(reply)) => drop(reply.send(std::mem::take(&mut self.arrivals))),
                Ok(Command::Survey(reply)) => {
                    let totals = || self.streams.iter().map(|stream| stream.total);
                    let (least, most) = (totals().min().unwrap_or(0), totals().max().unwrap_or(0));
                    let _ = reply.send(Survey { least, most, ..self.survey.clone() });
                }
                Ok(Command::Counts(reply)) => drop(reply.send(self.counts())),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
            self.receive()?;
        }
    }

    fn counts(&self) -> Vec<Counts> {
        let names = self.reader.names();
        let of = |stream: &Stream| {
            let counts = stream.counts.iter().enumerate().filter(|(_, (_, count))| *count != 0);
            counts.filter_map(|(bucket, &(_, count))| Some((names.get(&bucket)?.clone(), count))).collect()
        };
        self.streams.iter().map(of).collect()
    }

    fn receive(&mut self) -> Outcome<()> {
        for number in self.poll.wait(IDLE)? {
            let stream = &mut self.streams[number];
            let read = match stream.socket.read(&mut self.buffer) {
                Ok(0) => return Err(format!("stream {number} ended").into()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(format!("stream {number}: {error}").into()),
            };
            let now = Instant::now();
            let Stream { inbox, snapshots, counts, total, .. } = stream;
            inbox.take(&self.buffer[..read], |message| {
                let before = *total;
                match self.reader.read(message)? {
                    News::Nothing => return Ok(()),
                    News::Stale => self.survey.stale += 1,
                    News::Snapshot(metric, buckets) => {
                        *snapshots += 1;
                        for (_, count) in counts.iter_mut().filter(|(of, _)| of == metric) {
                            *total -= std::mem::take(count);
                        }
                        set(counts, total, *metric, buckets);
                    }
                    News::Update(metric, buckets) => {
                        self.survey.updates += 1;
                        self.survey.update_bytes += message.len() as u64;
                        self.survey.last_update = Some(now);
                        set(counts, total, *metric, buckets);
                    }
                }
                if let Some(base) = self.base {
                    let numbers = (before.max(base)..*total).filter_map(|count| usize::try_from(count - base).ok());
                    self.arrivals.extend(numbers.map(|number| Arrival { number, at: now }));
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn set(counts: &mut Vec<(u8, i64)>, total: &mut i64, metric: u8, buckets: &[(usize, i64)]) {
    for &(bucket, count) in buckets {
        if counts.len() <= bucket {
            counts.resize(bucket + 1, (metric, 0));
        }
        *total += count - counts[bucket].1;
        counts[bucket] = (metric, count);
    }
}

impl Stream {
    fn is_open(&self, open: Open) -> bool {
        match open {
            Open::WithHead => self.inbox.has_head(),
            Open::WithSnapshots(wanted) => self.snapshots >= wanted,
        }
    }
}
