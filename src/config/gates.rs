//! etcd's feature gates: which there are, their stage and default, and how `--feature-gates` is read.

use std::collections::BTreeMap;

use super::number::parse_bool;

/// One gate, as etcd 3.7 knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Its name.
    pub name: &'static str,
    /// Whether etcd calls it ALPHA or BETA.
    pub stage: Stage,
    /// Whether it is on when nothing is said.
    pub default: bool,
    /// What the gate does here.
    pub here: &'static str,
    /// Whether turning it changes anything.
    pub is_honoured: bool,
    /// The flag that had its place in etcd 3.5, without `experimental-`.
    pub old_flag: &'static str,
}

/// How far etcd trusts a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Stage {
    Alpha,
    Beta,
}

impl Stage {
    /// As etcd prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alpha => "ALPHA",
            Self::Beta => "BETA",
        }
    }
}

/// All gates, by name.
pub static GATES: [Gate; 11] = [
    alpha(ALL_ALPHA, "", "as each gate of the stage"),
    Gate { default: false, ..beta(ALL_BETA, "", "as each gate of the stage") },
    honoured(alpha("CompactHashCheck", "compact-hash-check-enabled", "the leader compares hashes at compactions")),
    beta("FastLeaseKeepAlive", "", "keep-alives never wait for the log"),
    honoured(alpha("InitialCorruptCheck", "initial-corrupt-check", "no start with data that is not the others'")),
    alpha("LeaseCheckpoint", "enable-lease-checkpoint", "not done"),
    alpha("LeaseCheckpointPersist", "enable-lease-checkpoint-persist", "not done"),
    alpha("PriorityRequest", "", "not done"),
    alpha(
        "SetMemberLocalAddr",
        "set-member-localaddr",
        "connections to peers leave from the address that the system chooses",
    ),
    alpha("StopGRPCServiceOnDefrag", "stop-grpc-service-on-defrag", "a defragmentation stops nobody here"),
    beta("TxnModeWriteWithSharedBuffer", "txn-mode-write-with-shared-buffer", "etcd's inner workings"),
];

const ALL_ALPHA: &str = "AllAlpha";
const ALL_BETA: &str = "AllBeta";

const fn alpha(name: &'static str, old_flag: &'static str, here: &'static str) -> Gate {
    Gate { name, stage: Stage::Alpha, default: false, here, is_honoured: false, old_flag }
}

const fn beta(name: &'static str, old_flag: &'static str, here: &'static str) -> Gate {
    Gate { name, stage: Stage::Beta, default: true, here, is_honoured: false, old_flag }
}

const fn honoured(gate: Gate) -> Gate {
    Gate { is_honoured: true, ..gate }
}

/// The gates at their values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureGates(BTreeMap<&'static str, bool>);

impl Default for FeatureGates {
    fn default() -> Self {
        Self(GATES.iter().map(|gate| (gate.name, gate.default)).collect())
    }
}

impl FeatureGates {
    /// Reads `gate=true,…` over what is set. Unknown gates are refused with etcd's text.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        let mut named = BTreeMap::new();
        let mut stages = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| format!("missing bool value for {part}"))?;
            let (name, value) = (name.trim(), value.trim());
            let on = parse_bool(value).map_err(|_| {
                format!("invalid value of {name}={value}, err: strconv.ParseBool: parsing \"{value}\": invalid syntax")
            })?;
            let gate = GATES.iter().find(|gate| gate.name == name);
            named.insert(gate.ok_or_else(|| format!("unrecognized feature gate: {name}"))?.name, on);
            match name {
                ALL_ALPHA => stages.push((Stage::Alpha, on)),
                ALL_BETA => stages.push((Stage::Beta, on)),
                _ => {}
            }
        }
        for (stage, on) in stages {
            let of_stage = GATES.iter().filter(|gate| gate.stage == stage && !is_whole_stage(gate));
            self.0.extend(of_stage.map(|gate| (gate.name, on)));
        }
        self.0.extend(named);
        Ok(())
    }

    /// Whether a gate is on; `false` for a name that is none.
    pub fn is_on(&self, name: &str) -> bool {
        self.0.get(name).copied().unwrap_or(false)
    }

    /// All gates at their values, by name; for `etcd_server_feature_enabled`.
    pub fn iter(&self) -> impl Iterator<Item = (Gate, bool)> {
        GATES.iter().map(|gate| (*gate, self.is_on(gate.name)))
    }
}

fn is_whole_stage(gate: &Gate) -> bool {
    [ALL_ALPHA, ALL_BETA].contains(&gate.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_gate_beats_its_stage() {
        let mut gates = FeatureGates::default();
        gates.set("InitialCorruptCheck=false, AllAlpha=true").unwrap();
        assert!(!gates.is_on("InitialCorruptCheck"));
        assert!(gates.is_on("LeaseCheckpoint") && gates.is_on("FastLeaseKeepAlive"));
    }

    #[test]
    fn what_is_no_gate_is_refused() {
        let mut gates = FeatureGates::default();
        assert_eq!(gates.set("Nope=true").unwrap_err(), "unrecognized feature gate: Nope");
        assert_eq!(gates.set("LeaseCheckpoint").unwrap_err(), "missing bool value for LeaseCheckpoint");
        assert!(gates.set("LeaseCheckpoint=maybe").unwrap_err().starts_with("invalid value of LeaseCheckpoint=maybe"));
    }
}
