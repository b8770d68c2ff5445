//! What the kernel says of this process, under the names that all programs use for it.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;

/// Makes it known, where there is a kernel that says so.
pub(super) fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(Process));
}

#[derive(Debug)]
struct Process;

impl Collector for Process {
    #[cfg(target_os = "linux")]
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // What cannot be read is left out.
        linux::Reading::take().map_or(Ok(()), |reading| reading.encode(encoder))
    }

    #[cfg(not(target_os = "linux"))]
    fn encode(&self, _: DescriptorEncoder<'_>) -> fmt::Result {
        Ok(())
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fmt;

    use procfs::ProcError;
    use procfs::process::{LimitValue, Process};
    use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
    use prometheus_client::metrics::MetricType;
    use prometheus_client::metrics::counter::ConstCounter;
    use prometheus_client::registry::Unit;

    use crate::metrics::encode_gauge;

    /// The process at this moment.
    pub(super) struct Reading {
        cpu_seconds: f64,
        start_seconds: f64,
        resident_bytes: u64,
        virtual_bytes: u64,
        threads: i64,
        open_files: u64,
        most_files: Option<u64>,
    }

    impl Reading {
        pub(super) fn take() -> Result<Self, ProcError> {
            let process = Process::myself()?;
            let stat = process.stat()?;
            let ticks = procfs::ticks_per_second() as f64;
            let most_files = match process.limits()?.max_open_files.soft_limit {
                LimitValue::Value(most) => Some(most),
                LimitValue::Unlimited => None,
            };
            Ok(Self {
                cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
                start_seconds: procfs::boot_time_secs()? as f64 + stat.starttime as f64 / ticks,
                resident_bytes: stat.rss * procfs::page_size(),
                virtual_bytes: stat.vsize,
                threads: stat.num_threads,
                open_files: process.fd_count()? as u64,
                most_files,
            })
        }

        pub(super) fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            let help = "CPU time that was used";
            let cpu = encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?;
            ConstCounter::new(self.cpu_seconds).encode(cpu)?;
            let mut gauge = |name, help, unit, value: f64| encode_gauge(&mut encoder, name, help, unit, value);
            gauge(
                "process_start_time",
                "When it was started, since the epoch",
                Some(&Unit::Seconds),
                self.start_seconds,
            )?;
            gauge("process_resident_memory", "Resident memory", Some(&Unit::Bytes), self.resident_bytes as f64)?;
            gauge("process_virtual_memory", "Virtual memory", Some(&Unit::Bytes), self.virtual_bytes as f64)?;
            gauge("process_threads", "Threads", None, self.threads as f64)?;
            gauge("process_open_fds", "Open files, sockets included", None, self.open_files as f64)?;
            if let Some(most) = self.most_files {
                gauge("process_max_fds", "How many there may be", None, most as f64)?;
            }
            Ok(())
        }
    }
}
