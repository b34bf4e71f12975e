//! Waits for the signals that ask a member to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code of a process that was told twice.
const TOLD_TWICE: i32 = 1;

/// Returns the name of the first SIGTERM or SIGINT. From then on a second one ends the process at once: whoever sends
/// it does not want to wait.
pub async fn asked() -> &'static str {
    let (mut terminate, mut interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => {
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

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
