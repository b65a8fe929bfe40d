//! The page counters through QMP `query-stats`, without root and debugfs.

use std::time::Duration;

use tdxlab_journal::{PageCounters, Reading};
use tdxlab_qemu::Qmp;
use tdxlab_qemu::qmp::commands::{QueryVmStats, VmStats};

const NAMES: [&str; 3] = ["pages_4k", "pages_2m", "pages_1g"];

/// Asks a monitor for the page counters of its VM.
pub fn read(qmp: &mut Qmp, patience: Duration) -> Reading<PageCounters> {
    match qmp.execute(&QueryVmStats::of_kvm(&NAMES), patience) {
        Ok(stats) => counters(&stats),
        Err(error) => Reading::missing(format!("QMP: {error}")),
    }
}

/// The page counters in an answer. Missing if one is absent or not a number.
fn counters(stats: &[VmStats]) -> Reading<PageCounters> {
    let value = |name: &str| {
        stats
            .iter()
            .filter(|of| of.provider == "kvm")
            .flat_map(|of| &of.stats)
            .find(|stat| stat.name == name)
            .ok_or_else(|| format!("no {name} among KVM's statistics"))
            .and_then(|stat| {
                stat.value
                    .as_u64()
                    .ok_or_else(|| format!("{name} is {}, not a number", stat.value))
            })
    };
    let read = || {
        Ok(PageCounters {
            pages_4k: value(NAMES[0])?,
            pages_2m: value(NAMES[1])?,
            pages_1g: value(NAMES[2])?,
        })
    };
    read().map_or_else(|reason: String| Reading::missing(reason), Reading::Read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Reading<PageCounters> {
        counters(&serde_json::from_str::<Vec<VmStats>>(text).unwrap())
    }

    #[test]
    fn counters_are_found_among_others() {
        let reading = answer(
            r#"[{"provider":"cryptodev","stats":[{"name":"pages_4k","value":9}]},
                {"provider":"kvm","stats":[{"name":"pages_1g","value":0},
                 {"name":"pages_4k","value":31},{"name":"x","value":[1]},
                 {"name":"pages_2m","value":2}]}]"#,
        );
        assert_eq!(
            reading,
            Reading::Read(PageCounters {
                pages_4k: 31,
                pages_2m: 2,
                pages_1g: 0
            })
        );
    }

    #[test]
    fn what_is_not_there_is_missing_and_named() {
        for text in [
            "[]",
            r#"[{"provider":"kvm","stats":[{"name":"pages_4k","value":1}]}]"#,
            r#"[{"provider":"kvm","stats":[{"name":"pages_4k","value":1},
                {"name":"pages_2m","value":true},{"name":"pages_1g","value":1}]}]"#,
        ] {
            let Reading::Missing { reason } = answer(text) else {
                panic!("{text} holds no three counters");
            };
            assert!(reason.contains("pages_"), "{reason}");
        }
    }
}
