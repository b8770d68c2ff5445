//! What arrives on a stream of server-sent events, taken apart. Every message goes through here in each of 10,000
//! streams, so nothing is copied or kept that need not be.

use std::collections::HashMap;

use serde::Deserialize;

use crate::Outcome;
use crate::http::Head;

/// The bytes of one stream, up to where they make no whole message yet.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    head: Option<Head>,
    /// Bytes as they came, of a chunk that is not whole yet.
    raw: Vec<u8>,
    /// Text of a message that is not whole yet.
    text: Vec<u8>,
}

impl Inbox {
    /// Whether the response has begun.
    pub(crate) fn has_head(&self) -> bool {
        self.head.is_some()
    }

    /// Takes in what was read and hands out the whole messages.
    pub(crate) fn take(&mut self, read: &[u8], mut each: impl FnMut(&[u8]) -> Outcome<()>) -> Outcome<()> {
        let mut raw = std::mem::take(&mut self.raw);
        // Nearly always nothing is left over, and what was read is whole.
        let taken = if raw.is_empty() {
            self.take_all(read, &mut each)?
        } else {
            raw.extend_from_slice(read);
            self.take_all(&raw, &mut each)?
        };
        if raw.is_empty() {
            raw.extend_from_slice(&read[taken..]);
        } else {
            raw.drain(..taken);
        }
        self.raw = raw;
        if self.raw.is_empty() {
            // 10,000 streams would each keep a buffer otherwise.
            self.raw = Vec::new();
        }
        Ok(())
    }

    /// How many of the bytes could be used.
    fn take_all(&mut self, bytes: &[u8], each: &mut impl FnMut(&[u8]) -> Outcome<()>) -> Outcome<usize> {
        let mut taken = 0;
        let head = match self.head {
            Some(head) => head,
            None => {
                let Some(head) = Head::parse(bytes)? else { return Ok(0) };
                if head.status != 200 {
                    return Err(format!("no stream: {}", String::from_utf8_lossy(bytes)).into());
                }
                taken = head.length;
                *self.head.insert(head)
            }
        };
        if !head.chunked {
            self.take_text(&bytes[taken..], each)?;
            return Ok(bytes.len());
        }
        while let Some((chunk, length)) = chunk(&bytes[taken..])? {
            self.take_text(chunk, each)?;
            taken += length;
        }
        Ok(taken)
    }

    fn take_text(&mut self, text: &[u8], each: &mut impl FnMut(&[u8]) -> Outcome<()>) -> Outcome<()> {
        let mut joined = std::mem::take(&mut self.text);
        let mut rest = text;
        if !joined.is_empty() {
            joined.extend_from_slice(text);
            rest = &joined;
        }
        while let Some(end) = rest.windows(2).position(|pair| pair == b"\n\n") {
            each(&rest[..end])?;
            rest = &rest[end + 2..];
        }
        self.text = rest.to_vec();
        Ok(())
    }
}

/// The first chunk of the chunked transfer coding, and how long it is with its frame; nothing if it is not whole.
fn chunk(bytes: &[u8]) -> Outcome<Option<(&[u8], usize)>> {
    let httparse::Status::Complete((begin, size)) =
        httparse::parse_chunk_size(bytes).map_err(|_| "the chunks are malformed")?
    else {
        return Ok(None);
    };
    let end = begin + usize::try_from(size)?;
    Ok((bytes.len() >= end + 2).then(|| (&bytes[begin..end], end + 2)))
}

/// What a message says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum News {
    /// All buckets of a metric.
    Snapshot(u8, Vec<(usize, i64)>),
    /// The buckets of a metric that changed.
    Update(u8, Vec<(usize, i64)>),
    Stale,
    /// A heartbeat, or that the stream is live.
    #[default]
    Nothing,
}

/// Reads messages. Streams of the same topic get the same bytes one after the other: these are read once.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    last: Vec<u8>,
    news: News,
    metrics: HashMap<String, u8>,
    /// Buckets of a metric by number, since streams count 10,000 times in the same ones.
    buckets: HashMap<(u8, String), usize>,
}

#[derive(Deserialize)]
struct Payload<'a> {
    metric: &'a str,
    buckets: Vec<Bucket<'a>>,
}

#[derive(Deserialize)]
struct Bucket<'a> {
    time: &'a str,
    count: i64,
}

impl Reader {
    pub(crate) fn read(&mut self, message: &[u8]) -> Outcome<&News> {
        if message != self.last {
            self.news = self.decode(message)?;
            self.last.clear();
            self.last.extend_from_slice(message);
        }
        Ok(&self.news)
    }

    /// The buckets by number: metric and time.
    pub(crate) fn names(&self) -> HashMap<usize, (String, String)> {
        let metric =
            |number: u8| self.metrics.iter().find(|(_, known)| **known == number).map(|(name, _)| name.clone());
        let name =
            |((of, time), number): (&(u8, String), &usize)| (*number, (metric(*of).unwrap_or_default(), time.clone()));
        self.buckets.iter().map(name).collect()
    }

    fn decode(&mut self, message: &[u8]) -> Outcome<News> {
        let (mut event, mut data) = ("", "");
        for line in std::str::from_utf8(message)?.lines() {
            match line.split_once(": ") {
                Some(("event", value)) => event = value,
                Some(("data", value)) => data = value,
                _ => {}
            }
        }
        if event == "status" && data.contains("stale") {
            return Ok(News::Stale);
        }
        // Messages without a name are those of another server, which carries what ours would.
        if !matches!(event, "" | "update" | "snapshot") || data.is_empty() {
            return Ok(News::Nothing);
        }
        let payload: Payload = serde_json::from_str(data)?;
        let next = u8::try_from(self.metrics.len())?;
        let metric = *self.metrics.entry(payload.metric.to_owned()).or_insert(next);
        let mut counts = Vec::new();
        for bucket in payload.buckets {
            let next = self.buckets.len();
            counts.push((*self.buckets.entry((metric, bucket.time.to_owned())).or_insert(next), bucket.count));
        }
        Ok(if event == "snapshot" { News::Snapshot(metric, counts) } else { News::Update(metric, counts) })
    }
}
