//! Looks after the members during a run: one that ends by itself is written down as broken and started again.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Nemesis, Windows};
use crate::cluster::Cluster;

/// Between two looks.
const EVERY: Duration = Duration::from_millis(100);
/// A member that ended is started again after this.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// A member that keeps ending is left alone after so many times.
const RESTARTS_MAX: usize = 10;

/// The guard.
pub struct Guard {
    /// Whom it looks after,
    pub cluster: Arc<Cluster>,
    /// and for how long: until the run stops and nobody else holds this any more.
    pub at_work: Arc<()>,
}

impl Nemesis for Guard {
    fn name(&self) -> String {
        "guard".into()
    }

    fn run(self: Box<Self>, windows: Windows, stop: watch::Receiver<bool>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let mut restarts = 0;
            while !*stop.borrow() || Arc::strong_count(&self.at_work) > 1 {
                for (member, status, log) in self.cluster.ended() {
                    windows.broken("ended by itself", member, format!("{status}: {log}"));
                    eprintln!("jepsen: member {member} ended by itself ({status}): {log}");
                    tokio::time::sleep(RESTART_AFTER).await;
                    restarts += 1;
                    if restarts <= RESTARTS_MAX
                        && let Err(error) = self.cluster.start(member)
                    {
                        windows.broken("not started", member, error.to_string());
                    }
                }
                tokio::time::sleep(EVERY).await;
            }
        })
    }
}
