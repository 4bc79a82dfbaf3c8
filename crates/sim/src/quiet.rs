//! What a pool costs in which nothing happens.

use crate::{
    history::{in_simulated_time, is_well, put},
    ledger::Content,
    plan::Plan,
    pool::Pool,
    world::Diary,
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long each stored file is.
const FILE_BYTES: usize = 200 << 10;
/// Until what is said ever less often is said as seldom as it will be, and how long is measured: six rounds of audits.
const SETTLING: Duration = Duration::from_secs(24 * 3600);
const MEASURED: Duration = Duration::from_secs(24 * 3600);
const HOUR: f64 = 3600.0;

/// What one node costs in an hour in which nothing happens.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Quiet {
    /// Machines of the pool.
    pub nodes: usize,
    /// Bytes of requests and replies that it sends, for each hour.
    pub asked: f64,
    /// Bytes of gossip that it hears, each message once, for each hour.
    pub heard: f64,
}

/// Measures a pool of so many machines, each of a person of its own who has stored so many files.
///
/// # Errors
///
/// When the pool does not become whole.
pub fn quiet(nodes: usize, files: usize, seed: u64) -> Result<Quiet, String> {
    let (quiet, panicked) = in_simulated_time(async move {
        let begun = Instant::now();
        let mut pool = Pool::new(Plan::uneventful(seed, nodes), Diary::new(begun, false), begun);
        pool.gather().await?;
        sleep(Duration::from_secs(60)).await;
        for i in 0..nodes {
            let node = pool.node(i).cloned().ok_or("a machine does not run")?;
            for file in 0..files {
                let content = Content {
                    seed: (i * files + file) as u64,
                    len: FILE_BYTES,
                };
                put(&node, &format!("file-{file}"), content).await?;
            }
        }
        sleep(SETTLING).await;
        let node = pool.node(0).cloned().ok_or("a machine does not run")?;
        let status = node.status().await.map_err(|error| error.to_string())?;
        if !status.silent.is_empty() || !is_well(&status.health) {
            return Err(format!("the pool is not whole: {:?}", status.health));
        }
        let (asked, heard) = (pool.weather.bytes(), pool.weather.gossip_bytes());
        sleep(MEASURED).await;
        let per_hour = |bytes: u64| bytes as f64 / nodes as f64 / (MEASURED.as_secs_f64() / HOUR);
        Ok(Quiet {
            nodes,
            asked: per_hour(pool.weather.bytes() - asked),
            heard: per_hour(pool.weather.gossip_bytes() - heard),
        })
    });
    panicked.map_or(quiet, Err)
}
