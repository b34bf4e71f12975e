//! Situations of the files: torn, truncated, flipped, used twice. On a real directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Finding;
use super::stage::{LogFile, START_MAX, Stage, lines_about, names_offset};
use crate::chaosfs::SECTOR;
use crate::history::{Action, Outcome};
use crate::rng::Rng;
use crate::target::{NotReady, Template};

/// Writes before the damage.
const PUTS: usize = 300;
const PUT_BYTES: u32 = 300;
/// The last write spans several sectors, so that a part of it can be missing.
const TORN_BYTES: u32 = 3000;
/// Flips of single bits, each on the undamaged directory.
const ROT_TRIALS: usize = 40;
/// Background writes get this long before the process is killed.
const SETTLE: Duration = Duration::from_millis(1500);
/// An offset in a message is right when it is that of the record or block around the damage.
const OFFSET_WITHIN: usize = 64 << 10;

/// A stage with [`PUTS`] answered writes whose server was killed, and its log.
async fn written(template: &Template, log: PathBuf) -> anyhow::Result<(Stage, Vec<LogFile>)> {
    let mut stage = Stage::new(template, log, false)?;
    let client = stage.start_well().await?;
    stage.put_well(&client, PUTS, PUT_BYTES).await?;
    stage.kill()?;
    let files = stage.log_files()?;
    Ok((stage, files))
}

pub async fn torn_tail(template: &Template, log: PathBuf) -> anyhow::Result<Finding> {
    let mut stage = Stage::new(template, log, false)?;
    let client = stage.start_well().await?;
    stage.put_well(&client, PUTS, PUT_BYTES).await?;
    stage.put_well(&client, 1, TORN_BYTES).await?;
    stage.kill()?;
    let mut files = stage.log_files()?;
    let last = files.last_mut().expect("log_files returns at least one");
    // The disk wrote all sectors of the last write but its last one.
    let (end, from) = (last.used, (last.used - 1) / SECTOR * SECTOR);
    last.bytes[from..end].fill(0);
    last.write()?;
    let damage = format!("{} torn at {from}..{end}", last.name());
    // Such a tail is an unfinished write, so the last write was never answered, as far as the judge goes.
    if let Some(operation) = stage.operations.last_mut() {
        operation.outcome = Outcome::Unknown("torn".into());
    }
    Ok(match stage.restart_and_judge().await? {
        None => Finding::valid(format!("{damage}; it started, {} writes are there", stage.answered())),
        Some(wrong) => Finding::invalid(format!("{damage}; {wrong}")),
    })
}

pub async fn truncated_segment(template: &Template, log: PathBuf) -> anyhow::Result<Finding> {
    let (mut stage, mut files) = written(template, log).await?;
    let first = &mut files[0];
    let half = first.used / 2;
    first.bytes.truncate(half);
    first.write()?;
    let name = first.name();
    refuses(&mut stage, &name, None, &format!("{name} truncated to {half} bytes")).await
}

pub async fn flipped_bit(template: &Template, log: PathBuf) -> anyhow::Result<Finding> {
    let (mut stage, mut files) = written(template, log).await?;
    let value = match &stage.operations[PUTS / 2].action {
        Action::Put { value, .. } => value.encode(),
        _ => Vec::new(),
    };
    // In a value if the log has it in plain, else in the middle of what is used.
    let found = files.iter().enumerate().find_map(|(index, file)| {
        file.bytes.windows(value.len()).position(|window| window == value).map(|at| (index, at + value.len() / 2))
    });
    let (index, offset) = found.unwrap_or((0, files[0].used / 2));
    let file = &mut files[index];
    file.bytes[offset] ^= 1 << 3;
    file.write()?;
    let name = file.name();
    refuses(&mut stage, &name, Some(offset), &format!("{name} with one bit flipped at {offset}")).await
}

pub async fn bit_rot(template: &Template, log: PathBuf) -> anyhow::Result<Finding> {
    let (mut stage, _) = written(template, log).await?;
    // Once more, so that whatever is written at a start or a stop is there as well.
    if let Some(wrong) = stage.restart_and_judge().await? {
        return Ok(Finding::invalid(format!("before any damage: {wrong}")));
    }
    tokio::time::sleep(SETTLE).await;
    stage.kill()?;
    let files = all_files(&stage.data_dir())?;
    let mut rng = Rng::new(1);
    let (mut refused, mut unnamed, mut unnoticed) = (0, 0, 0);
    for trial in 0..ROT_TRIALS {
        // File by file in turn, so that small ones are hit, too.
        let (path, bytes) = &files[trial % files.len()];
        let used: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at] != 0).collect();
        let (at, bit) = (*rng.pick(&used), rng.below(8));
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << bit;
        std::fs::write(path, damaged)?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let damage = format!("{} with bit {bit} of byte {at} flipped", path.display());
        match stage.start().await? {
            Ok(client) => {
                if let Some(wrong) = stage.judge(&client).await? {
                    return Ok(Finding::invalid(format!("{damage}: it started, but {wrong}")));
                }
                unnoticed += 1;
            }
            Err(NotReady::Ended(_)) => {
                refused += 1;
                unnamed += u32::from(lines_about(&stage.server()?.log_text()?, &name).is_empty());
            }
            Err(error) => return Ok(Finding::invalid(format!("{damage}: it neither ends nor answers: {error}"))),
        }
        stage.kill()?;
        restore(&stage.data_dir(), &files)?;
    }
    Ok(Finding::valid(format!(
        "{ROT_TRIALS} flips in {} files: {refused} refused ({unnamed} without naming the file), {unnoticed} started with \
         everything there",
        files.len()
    )))
}

/// Every file that has content, with it.
fn all_files(dir: &Path) -> anyhow::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(all_files(&path)?);
        } else {
            let bytes = std::fs::read(&path)?;
            if bytes.iter().any(|&byte| byte != 0) {
                files.push((path, bytes));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The directory as it was: what a start added goes, what it changed comes back.
fn restore(dir: &Path, files: &[(PathBuf, Vec<u8>)]) -> anyhow::Result<()> {
    for (path, _) in all_files(dir)? {
        if files.binary_search_by(|(known, _)| known.cmp(&path)).is_err() {
            std::fs::remove_file(path)?;
        }
    }
    for (path, bytes) in files {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, bytes)?;
    }
    Ok(())
}

/// It must not start, and must say which file (and where).
async fn refuses(stage: &mut Stage, name: &str, offset: Option<usize>, damage: &str) -> anyhow::Result<Finding> {
    let started = stage.start().await?;
    let ended = stage.server()?.ended()?;
    let words = lines_about(&stage.server()?.log_text()?, name);
    let named = !words.is_empty() && offset.is_none_or(|offset| names_offset(&words, offset, OFFSET_WITHIN));
    Ok(match (started, ended) {
        (Ok(client), _) => match stage.judge(&client).await? {
            None => {
                Finding::invalid(format!("{damage}; it started and everything is there: the damage went unnoticed"))
            }
            Some(wrong) => Finding::invalid(format!("{damage}; it started without it: {wrong}")),
        },
        (Err(_), Some(status)) if named => Finding::valid(format!("{damage}; it ended ({status}): {words}")),
        (Err(_), Some(status)) => Finding::invalid(format!(
            "{damage}; it ended ({status}), but does not name the {}: {}",
            if offset.is_some() { "file and the offset" } else { "file" },
            stage.last_words()
        )),
        (Err(error), None) => Finding::invalid(format!("{damage}; it neither ends nor answers: {error}")),
    })
}

pub async fn second_process(template: &Template, log: PathBuf) -> anyhow::Result<Finding> {
    let mut stage = Stage::new(template, log, false)?;
    let client = stage.start_well().await?;
    stage.put_well(&client, 50, 200).await?;
    let mut second = stage.second()?;
    let ready = second.ready(START_MAX.min(Duration::from_secs(8))).await;
    let ended = second.ended()?;
    let words = second.log_tail().lines().last().unwrap_or_default().to_owned();
    second.kill(|| ())?;
    if ready.is_ok() {
        return Ok(Finding::invalid("the second process answers, too"));
    }
    if !stage.put(&client, 200).await {
        return Ok(Finding::invalid(format!("the first one no longer writes: {:?}", stage.operations.last())));
    }
    let how = match ended {
        Some(status) => format!("the second ended ({status}): {words}"),
        None => format!("the second waits: {words}"),
    };
    Ok(match stage.restart_and_judge().await? {
        None => Finding::valid(how),
        Some(wrong) => Finding::invalid(format!("{how}; then {wrong}")),
    })
}
