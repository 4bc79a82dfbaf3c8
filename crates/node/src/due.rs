//! When something is done next: it waits until then, unless it is called for sooner.

use std::{sync::Mutex, time::Duration};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// Longer than anything waits.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// See the module.
#[derive(Debug)]
pub(crate) struct Due {
    at: Mutex<Instant>,
    sooner: Notify,
}

impl Due {
    /// So long from now.
    pub(crate) fn after(delay: Duration) -> Self {
        Self {
            at: Mutex::new(Instant::now() + delay.min(FAR)),
            sooner: Notify::new(),
        }
    }

    /// Calls for it in so long at the latest.
    pub(crate) fn within(&self, delay: Duration) {
        let wanted = Instant::now() + delay.min(FAR);
        let mut at = self.at.lock().expect("never poisoned");
        if wanted < *at {
            *at = wanted;
            self.sooner.notify_one();
        }
    }

    /// Waits until it is due. After that it is not, until it is called for again.
    pub(crate) async fn wait(&self) {
        loop {
            let at = *self.at.lock().expect("never poisoned");
            tokio::select! {
                biased;
                () = self.sooner.notified() => {}
                () = sleep_until(at) => break,
            }
        }
        *self.at.lock().expect("never poisoned") = Instant::now() + FAR;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_comes_when_it_is_due_or_called_for() {
        let due = Due::after(Duration::from_secs(60));
        let begun = Instant::now();
        due.within(Duration::from_secs(90));
        due.wait().await;
        assert_eq!(begun.elapsed().as_secs(), 60);
        due.within(Duration::from_secs(50));
        tokio::join!(due.wait(), async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            due.within(Duration::from_secs(5));
        });
        assert_eq!(begun.elapsed().as_secs(), 75);
        assert!(tokio::time::timeout(FAR / 2, due.wait()).await.is_err());
    }
}
