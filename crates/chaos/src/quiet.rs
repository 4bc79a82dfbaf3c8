//! What a pool of real processes costs in which nothing happens: bytes on the wire, with all that is below the program, and memory.

use crate::{machine::Machine, network, run::Failure};
use std::{
    thread,
    time::{Duration, Instant},
};

/// What one machine costs, on the whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Bytes that it sends in an hour, Ethernet frames and all.
    pub(crate) sent: f64,
    /// Packets that it sends in a second.
    pub(crate) packets: f64,
    /// Bytes of memory that its daemon takes.
    pub(crate) memory: f64,
}

/// Lets machines rest for half of the time, and measures the other half.
pub(crate) fn measure(machines: &[Machine], time: Duration) -> Result<Cost, Failure> {
    thread::sleep(time / 2);
    let (begun, before) = (Instant::now(), sent(machines)?);
    thread::sleep(time / 2);
    let (after, seconds) = (sent(machines)?, begun.elapsed().as_secs_f64());
    let count = machines.len() as f64;
    let memory: u64 = machines.iter().filter_map(Machine::memory).sum();
    Ok(Cost {
        sent: (after.0 - before.0) as f64 / count / seconds * 3600.0,
        packets: (after.1 - before.1) as f64 / count / seconds,
        memory: memory as f64 / count,
    })
}

/// Bytes and packets that all machines have sent.
fn sent(machines: &[Machine]) -> Result<(u64, u64), Failure> {
    machines.iter().try_fold((0, 0), |(bytes, packets), machine| {
        let (more_bytes, more_packets) = network::sent(machine.seat.index)?;
        Ok((bytes + more_bytes, packets + more_packets))
    })
}
