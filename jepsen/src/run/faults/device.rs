//! Situations of the device: full, failing, slow, read-only. On chaosfs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Finding;
use super::stage::Stage;
use crate::target::Template;

/// Room left on the full disk, in bytes.
const ROOM: u64 = 4 << 20;
/// Puts until the disk must be full, and their size; more than any log preallocates.
const FULL_PUTS: usize = 6_000;
const FULL_BYTES: u32 = 40_000;
/// How long a process may take to end after a failed sync.
const END_MAX: Duration = Duration::from_secs(10);
/// The delay of a slow sync.
const SLOW: Duration = Duration::from_millis(300);

pub async fn full_disk(template: &Template, log: PathBuf) -> anyhow::Result<Finding> {
    let mut stage = Stage::new(template, log, true)?;
    let client = stage.start_well().await?;
    stage.put_well(&client, 50, 200).await?;
    let used = stage.fs()?.bytes_used();
    stage.fs()?.faults(|faults| faults.capacity_bytes = Some(used + ROOM));
    let mut puts = 0;
    while puts < FULL_PUTS && stage.put(&client, FULL_BYTES).await {
        puts += 1;
    }
    let hit = stage.fs()?.counters().faults_hit;
    if hit == 0 {
        return Ok(Finding::inconclusive(format!("{puts} puts and the disk is not full")));
    }
    // A few more: whatever is answered now must be there, too.
    for _ in 0..20 {
        stage.put(&client, 200).await;
    }
    let ended = stage.server()?.wait_end(Duration::from_secs(2)).await?;
    let last = format!("{:?}", stage.operations[stage.operations.len() - 21].outcome);
    stage.fs()?.faults(|faults| faults.capacity_bytes = None);
    stage.power_cut()?;
    let how = match ended {
        Some(status) => format!("the process ended ({status}) after {puts} large puts; {}", stage.last_words()),
        None => format!("the process stayed; put {puts} ended with {last}"),
    };
    Ok(match stage.restart_and_judge().await? {
        None => Finding::valid(format!("{how}; all {} answered writes are there", stage.answered())),
        Some(wrong) => Finding::invalid(format!("{how}; after the restart: {wrong}")),
    })
}

pub async fn failed_sync(template: &Template, log: PathBuf, every: bool) -> anyhow::Result<Finding> {
    let mut stage = Stage::new(template, log, true)?;
    let client = stage.start_well().await?;
    stage.put_well(&client, 50, 200).await?;
    stage.fs()?.faults(|faults| {
        faults.fail_all_syncs = every;
        faults.fail_sync_in = Some(1);
    });
    let started = Instant::now();
    let mut after = 0;
    let mut ended = None;
    while ended.is_none() && started.elapsed() < END_MAX {
        let hit = stage.fs()?.counters().faults_hit > 0;
        let answered = stage.put(&client, 200).await;
        // Sent after the failure and answered all the same.
        after += u32::from(hit && answered);
        ended = stage.server()?.ended()?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if stage.fs()?.counters().faults_hit == 0 {
        return Ok(Finding::inconclusive("no sync was asked for"));
    }
    stage.fs()?.faults(|faults| faults.fail_all_syncs = false);
    stage.power_cut()?;
    let words = stage.last_words();
    let wrong = stage.restart_and_judge().await?;
    let how = match ended {
        Some(status) => format!("the process ended ({status}): {words}"),
        None => format!("the process went on for {END_MAX:?} and answered {after} writes"),
    };
    Ok(match wrong {
        None if ended.is_some() && after == 0 => {
            Finding::valid(format!("{how}; all {} answered writes are there", stage.answered()))
        }
        None => Finding::invalid(format!("{how}; {after} answered after the failure; nothing is lost")),
        Some(wrong) => Finding::invalid(format!("{how}; {after} answered after the failure; then {wrong}")),
    })
}

pub async fn failed_write(template: &Template, log: PathBuf) -> anyhow::Result<Finding> {
    let mut stage = Stage::new(template, log, true)?;
    let client = stage.start_well().await?;
    stage.put_well(&client, 50, 200).await?;
    stage.fs()?.faults(|faults| faults.fail_write_in = Some(1));
    let mut ended = None;
    for _ in 0..200 {
        stage.put(&client, 200).await;
        ended = stage.server()?.ended()?;
        if ended.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if stage.fs()?.counters().faults_hit == 0 {
        return Ok(Finding::inconclusive("nothing was written"));
    }
    stage.power_cut()?;
    let how = match ended {
        Some(status) => format!("the process ended ({status}): {}", stage.last_words()),
        None => "the process went on".to_owned(),
    };
    Ok(match stage.restart_and_judge().await? {
        None => Finding::valid(format!("{how}; all {} answered writes are there", stage.answered())),
        Some(wrong) => Finding::invalid(format!("{how}; after a power cut: {wrong}")),
    })
}

pub async fn slow_sync(template: &Template, log: PathBuf) -> anyhow::Result<Finding> {
    let mut stage = Stage::new(template, log, true)?;
    let client = stage.start_well().await?;
    stage.put_well(&client, 20, 200).await?;
    stage.fs()?.faults(|faults| faults.slow_sync = Some(SLOW));
    // The first may share a sync that is under way.
    stage.put(&client, 200).await;
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let started = Instant::now();
        if stage.put(&client, 200).await {
            fastest = fastest.min(started.elapsed());
        }
    }
    stage.fs()?.faults(|faults| faults.slow_sync = None);
    stage.power_cut()?;
    let wrong = stage.restart_and_judge().await?;
    let how = format!("the fastest put took {} ms", fastest.as_millis());
    Ok(match wrong {
        None if fastest >= SLOW => Finding::valid(format!("{how}; all {} answered writes are there", stage.answered())),
        None => Finding::invalid(format!("{how}, less than a sync")),
        Some(wrong) => Finding::invalid(format!("{how}; after a power cut: {wrong}")),
    })
}

pub async fn read_only(template: &Template, log: PathBuf) -> anyhow::Result<Finding> {
    let mut stage = Stage::new(template, log, true)?;
    let client = stage.start_well().await?;
    stage.put_well(&client, 50, 200).await?;
    stage.kill()?;
    stage.fs()?.faults(|faults| faults.read_only = true);
    let started = stage.start().await?;
    let ended = stage.server()?.ended()?;
    let words = stage.last_words();
    stage.fs()?.faults(|faults| faults.read_only = false);
    let how = match (started, ended) {
        (Ok(_), _) => return Ok(Finding::invalid("it started and answers on a read-only file system")),
        (Err(_), Some(status)) if !status.success() => format!("the process ended ({status}): {words}"),
        (Err(error), _) => return Ok(Finding::invalid(format!("it did not end with an error: {error}; {words}"))),
    };
    Ok(match stage.restart_and_judge().await? {
        None => Finding::valid(how),
        Some(wrong) => Finding::invalid(format!("{how}; writable again: {wrong}")),
    })
}
