//! Many sockets, one thread.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// So many sockets are reported at once at most.
const MOST_EVENTS: usize = 1024;

/// Which of many sockets can be read. Waits with the precision of the system's timers, not of milliseconds.
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(MOST_EVENTS) })
    }

    /// Reports this socket by its number whenever there is something to read.
    pub(crate) fn add(&self, socket: impl AsFd, number: usize) -> io::Result<()> {
        epoll::add(&self.epoll, socket, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        Ok(())
    }

    /// Waits, but not longer than this; the numbers of the sockets that can be read.
    pub(crate) fn wait(&mut self, patience: Duration) -> io::Result<impl Iterator<Item = usize>> {
        self.events.clear();
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.events.iter().map(|event| {
            let number = event.data.u64();
            usize::try_from(number).unwrap_or(usize::MAX)
        }))
    }
}
