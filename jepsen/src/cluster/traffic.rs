//! What goes wrong between members, and between them and clients: cuts in one direction each, loss, slow cables.
//!
//! On the bridge between namespaces nft drops packets and counts them, which is the evidence; tc slows cables down.

use std::io;
use std::time::Duration;

use super::proxy::Links;
use super::space::{address, cable, clients_address, tool};

/// Who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// A member.
    Member(u32),
    /// All clients.
    Clients,
}

impl Party {
    fn address(self) -> String {
        match self {
            Self::Member(member) => address(member),
            Self::Clients => clients_address(),
        }
    }
}

/// What was dropped or held back until it was healed.
pub type Dropped = u64;

/// The network's faults. All calls block for some tens of milliseconds: call them off the main thread.
#[derive(Clone)]
pub enum Traffic {
    /// The bridge in this process' namespace.
    Bridge,
    /// Proxies of ours.
    Proxies(Links),
}

/// Frames of a member enter the bridge in `pre`; what clients send leaves this namespace through `out`.
const CHAINS: &str = "add table bridge jepsen
add chain bridge jepsen pre { type filter hook prerouting priority 0; }
add chain bridge jepsen out { type filter hook output priority 0; }
flush chain bridge jepsen pre
flush chain bridge jepsen out
";

impl Traffic {
    /// From now on nothing goes from the one to the other, for each of these pairs; what was cut before is open again.
    pub fn cut(&self, pairs: &[(Party, Party)]) -> io::Result<()> {
        if let Self::Proxies(links) = self {
            links.cut(pairs);
            return Ok(());
        }
        let rule = |(from, to): &(Party, Party)| {
            let (source, target) = (from.address(), to.address());
            format!("add rule bridge jepsen {} ip saddr {source} ip daddr {target} counter drop\n", chain(*from))
        };
        self.apply(&pairs.iter().map(rule).collect::<String>())
    }

    /// From now on this share of all packets from and to these members is lost, in percent.
    pub fn lose(&self, members: &[u32], percent: u64) -> io::Result<()> {
        if let Self::Proxies(links) = self {
            links.lose(members, percent);
            return Ok(());
        }
        let rules = members.iter().map(|member| {
            let address = address(*member);
            let lost = format!("numgen random mod 100 < {percent} counter drop");
            format!(
                "add rule bridge jepsen pre ip saddr {address} {lost}\n\
                 add rule bridge jepsen pre ip daddr {address} {lost}\n\
                 add rule bridge jepsen out ip daddr {address} {lost}\n"
            )
        });
        self.apply(&rules.collect::<String>())
    }

    fn apply(&self, rules: &str) -> io::Result<()> {
        tool("nft", &["-f", "-"], &format!("{CHAINS}{rules}")).map(drop)
    }

    /// Packets dropped by the rules in force.
    pub fn dropped(&self) -> io::Result<Dropped> {
        if let Self::Proxies(links) = self {
            return Ok(links.held());
        }
        let listed = tool("nft", &["list", "table", "bridge", "jepsen"], "")?;
        Ok(numbers_after(&listed, "counter packets "))
    }

    /// Opens everything; how many packets the last rules dropped.
    pub fn heal(&self) -> io::Result<Dropped> {
        if let Self::Proxies(links) = self {
            return Ok(links.heal());
        }
        let dropped = self.dropped()?;
        self.apply("")?;
        Ok(dropped)
    }

    /// Makes what a member receives slow: by netem where the kernel has it (delay, loss, duplicates, reordering), else
    /// by little bandwidth, so that packets queue. Says which.
    pub fn slow(&self, members: &[u32], delay_ms: u64) -> io::Result<String> {
        if let Self::Proxies(links) = self {
            links.slow(members, Duration::from_millis(delay_ms));
            return Ok(format!("{delay_ms} ms for each piece"));
        }
        let delay = format!("{delay_ms}ms");
        let jitter = format!("{}ms", delay_ms / 2);
        let netem = ["netem", "delay", &delay, &jitter, "25%", "loss", "1%", "duplicate", "1%", "reorder", "10%"];
        let rate = format!("{}kbit", (2_000 / delay_ms.max(10)).max(32));
        let tbf = ["tbf", "rate", &rate, "burst", "8kb", "latency", "400ms"];
        let mut how = String::new();
        for member in members {
            let cable = cable(*member);
            let with = |kind: &[&str]| {
                let words: Vec<&str> =
                    ["qdisc", "replace", "dev", &cable, "root"].iter().chain(kind).copied().collect();
                tool("tc", &words, "")
            };
            how = match with(&netem) {
                Ok(_) => format!("netem, {delay} ± {jitter}"),
                Err(_) => with(&tbf).map(|_| format!("bandwidth {rate}"))?,
            };
        }
        Ok(how)
    }

    /// Makes cables fast again; how many packets were held back or dropped.
    pub fn fast(&self, members: &[u32]) -> io::Result<Dropped> {
        if let Self::Proxies(links) = self {
            return Ok(links.heal());
        }
        let held = self.held_back(members)?;
        for member in members {
            tool("tc", &["qdisc", "delete", "dev", &cable(*member), "root"], "")?;
        }
        Ok(held)
    }

    /// How many packets slow cables held back or dropped so far.
    pub fn held_back(&self, members: &[u32]) -> io::Result<Dropped> {
        if let Self::Proxies(links) = self {
            return Ok(links.held());
        }
        let mut held = 0;
        for member in members {
            let counters = tool("tc", &["-s", "qdisc", "show", "dev", &cable(*member)], "")?;
            held += numbers_after(&counters, "overlimits ") + numbers_after(&counters, "(dropped ");
            if counters.contains("netem") {
                held += numbers_after(&counters, "bytes ");
            }
        }
        Ok(held)
    }
}

fn chain(from: Party) -> &'static str {
    match from {
        Party::Member(_) => "pre",
        Party::Clients => "out",
    }
}

/// The sum of all numbers that stand behind these words.
fn numbers_after(text: &str, words: &str) -> u64 {
    let number = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u64>();
    text.split(words).skip(1).filter_map(|rest| number(rest).ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_up() {
        let listed = "ip saddr 1 counter packets 12 bytes 700 drop\nip saddr 2 counter packets 30 bytes 1 drop";
        assert_eq!(numbers_after(listed, "counter packets "), 42);
        assert_eq!(numbers_after("nothing", "counter packets "), 0);
    }
}
