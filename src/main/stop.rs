//! Waits for the signals that ask a member to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code of a process that was told twice.
const TOLD_TWICE: i32 = 1;

/// Resolves to the name of the first SIGTERM or SIGINT after the call, even if nobody waits yet. From then on a second
/// one ends the process at once: whoever sends it does not want to wait. To be called within a runtime.
pub fn asked() -> impl Future<Output = &'static str> {
    // Here and not at the first poll: a signal that comes while the member starts must not be lost.
    let signals = signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    async {
        let (mut terminate, mut interrupt) = match signals {
            Ok(signals) => signals,
            Err(error) => {
                tracing::error!(%error, "signals cannot be received; only SIGKILL stops this member");
                return std::future::pending().await;
            }
        };
        let name = next(&mut terminate, &mut interrupt).await;
        tokio::spawn(async move {
            let name = next(&mut terminate, &mut interrupt).await;
            tracing::warn!(signal = name, "asked a second time; stopping at once");
            std::process::exit(TOLD_TWICE);
        });
        name
    }
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
