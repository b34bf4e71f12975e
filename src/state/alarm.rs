//! Raised alarms, and which commands they refuse.

use std::collections::BTreeSet;

use crate::proto::etcdserverpb as pb;
use pb::AlarmType;
use pb::alarm_request::AlarmAction;

/// Raised alarms by type, then member.
#[derive(Clone, Debug, Default)]
pub struct Alarms {
    raised: BTreeSet<(i32, u64)>,
}

impl Alarms {
    /// As [`super::Meta`] has them.
    pub fn new(alarms: &[pb::AlarmMember]) -> Self {
        Self { raised: alarms.iter().map(|alarm| (alarm.alarm, alarm.member_id)).collect() }
    }

    /// Raises, lowers or lists alarms as etcd does. The answer names those asked for or touched; an action that is
    /// none (`rpc` refuses it before) does nothing.
    pub fn apply(&mut self, request: &pb::AlarmRequest) -> Vec<pb::AlarmMember> {
        let alarm = (request.alarm, request.member_id);
        let touched = vec![pb::AlarmMember { member_id: request.member_id, alarm: request.alarm }];
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => {
                let any = request.alarm == AlarmType::None as i32;
                self.list().into_iter().filter(|raised| any || raised.alarm == request.alarm).collect()
            }
            Ok(AlarmAction::Activate) if request.alarm != AlarmType::None as i32 => {
                self.raised.insert(alarm);
                touched
            }
            Ok(AlarmAction::Deactivate) if self.raised.remove(&alarm) => touched,
            Ok(AlarmAction::Activate | AlarmAction::Deactivate) | Err(_) => Vec::new(),
        }
    }

    /// All raised alarms.
    pub fn list(&self) -> Vec<pb::AlarmMember> {
        self.raised.iter().map(|&(alarm, member_id)| pb::AlarmMember { member_id, alarm }).collect()
    }

    /// Whether any member has raised it.
    pub fn is_raised(&self, alarm: AlarmType) -> bool {
        self.raised.range((alarm as i32, 0)..=(alarm as i32, u64::MAX)).next().is_some()
    }
}
