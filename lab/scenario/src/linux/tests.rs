//! Scenarios of Linux guests: every step, and every diagnostic.

use std::path::Path;

use tdxlab_plan::linux::{AgentBy, BufferId, FileBy, LinuxOp, LinuxPlan, ReadFile};

use super::parse_linux;
use crate::error::ScenarioError;

fn parse(steps: &str) -> Result<LinuxPlan, ScenarioError> {
    let text = format!(
        "scenario: linux/x\nabout: It shows something.\nguest:\n  linux: {{ memory: 768M }}\nsteps:\n{steps}"
    );
    parse_linux(Path::new("x.yaml"), &text, None).map(|mut plans| plans.remove(0))
}

#[test]
fn every_step_is_read() {
    let plan = parse(
        "  - boot\n  - fill: { buffer: 0, size: 8M, pages: thp }\n  - verify: 0\n  \
         - punch: { buffer: 0, at: 4K, size: 8K }\n  - load: { touch: 64M, processes: 2 }\n  \
         - load: { fork: 8M }\n  - load: { fragment: 8M }\n  - load: release\n  \
         - fill: { buffer: 1, size: 2M, pages: kernel }\n  \
         - convert: { buffer: 1, size: 4K, to: shared }\n  - free: 1\n  - settle\n  - kexec\n  - power_off\n",
    )
    .unwrap();
    assert_eq!(plan.steps.len(), 14);
    let buffer = BufferId::new(0).unwrap();
    assert_eq!(
        plan.steps[3].op,
        LinuxOp::Punch {
            buffer,
            first: 1,
            count: 2
        }
    );
    assert_eq!(
        (plan.steps[3].line, plan.guest.vcpus, plan.td),
        (9, 1, None)
    );
}

#[test]
fn what_is_wrong_is_underlined_with_what_would_be_right() {
    for (steps, says) in [
        ("  - boot\n  - verfy: 0\n", "did you mean `verify`?"),
        ("  - boot\n  - verify: 0\n", "fill it first"),
        (
            "  - fill: { buffer: 0, size: 4K }\n",
            "`boot` is the first step",
        ),
        ("  - boot\n  - boot\n", "`boot` is the first step"),
        (
            "  - boot\n  - power_off\n  - settle\n",
            "`power_off` is the last step",
        ),
        ("  - boot\n  - fill: { buffer: 16, size: 4K }\n", "0 to 15"),
        (
            "  - boot\n  - fill: { buffer: 0, size: 5 }\n",
            "such as 12K",
        ),
        (
            "  - boot\n  - fill: { buffer: 0, size: 3M, pages: hugetlb-2M }\n",
            "multiples of 2M",
        ),
        (
            "  - boot\n  - fill: { buffer: 0, size: 4K, pges: thp }\n",
            "did you mean `pages`?",
        ),
        (
            "  - boot\n  - fill: { buffer: 0, size: 8K }\n  - punch: { buffer: 0, at: 4K, size: 8K }\n",
            "own bytes",
        ),
        (
            "  - boot\n  - fill: { buffer: 0, size: 8K }\n  - convert: { buffer: 0, size: 4K, to: shared }\n",
            "pages: kernel",
        ),
        ("  - boot\n  - plug: { size: 100M }\n", "such as 256M"),
        (
            "  - boot\n  - plug: { size: 128M, ends: true }\n  - settle\n",
            "is the last step",
        ),
        (
            "  - boot\n  - plug: { size: 128M, ends: true }\n",
            "add `needs: { td: true }`",
        ),
        ("  - boot\n  - quote\n", "add `needs: { td: true }`"),
        (
            "  - boot\n  - fill: { buffer: 0, size: 8K }\n  - kexec\n  - verify: 0\n",
            "a kexec takes all",
        ),
    ] {
        let help = help_of(&parse(steps).unwrap_err());
        assert!(
            help.iter().any(|help| help.contains(says)),
            "{steps}: {help:?}"
        );
    }
}

#[test]
fn a_file_is_read_within_its_bounds_by_whom_there_is() {
    let plan =
        parse("  - boot\n  - read_file: { path: /etc/os-release, contains: 'ID=' }\n").unwrap();
    let read = ReadFile {
        path: "/etc/os-release".to_owned(),
        most: 64 << 10,
        contains: Some("ID=".to_owned()),
        by: FileBy::Agent,
    };
    assert_eq!(plan.steps[1].op, LinuxOp::ReadFile(read));
    let by = "  - read_file: { path: /proc/version, by: qemu-ga, most: 1M }\n";
    assert!(on("agent: qemu-ga", by).is_ok());
    for (keys, says) in [
        ("path: etc/os-release", "such as /etc/os-release"),
        ("path: /x, most: 2M", "64K where `most` is left out"),
        ("path: /x, most: 0", "64K where `most` is left out"),
        ("path: /x, contains: ''", "leave `contains` out"),
        ("path: /x, by: qemu-ga", "add `agent: qemu-ga`"),
        ("path: /x, by: root", "it can be `agent`, `qemu-ga`"),
    ] {
        let steps = format!("  - boot\n  - read_file: {{ {keys} }}\n");
        let help = help_of(&parse(&steps).unwrap_err());
        assert!(
            help.iter().any(|help| help.contains(says)),
            "{keys}: {help:?}"
        );
    }
    let long = format!(
        "  - boot\n  - read_file: {{ path: /{} }}\n",
        "x".repeat(256)
    );
    assert!(parse(&long).is_err());
}

fn help_of(error: &ScenarioError) -> Vec<String> {
    let ScenarioError::Wrong(wrong) = error else {
        panic!("{error}")
    };
    let problems = wrong.problems.iter();
    problems
        .filter_map(|problem| problem.help.clone())
        .collect()
}

#[test]
fn a_matrix_makes_plans_and_a_walk_is_drawn_from_the_seed() {
    let text = "scenario: linux/x\nabout: T.\nseed: 7\nguest:\n  linux: { memory: $memory }\n\
        matrix:\n  memory: [512M, 768M]\nsteps:\n  - boot\n  \
        - fill: { buffer: 0, size: 4M, pages: kernel }\n  \
        - repeat: { times: 3, steps: [{ walk: { buffer: 0, times: 4 } }, { verify: 0 }] }\n";
    let plans = |seed| parse_linux(Path::new("x.yaml"), text, seed).unwrap();
    let both = plans(None);
    let names: Vec<_> = both.iter().map(|plan| plan.name.as_str()).collect();
    assert_eq!(names, ["linux/x[memory=512M]", "linux/x[memory=768M]"]);
    assert_eq!((both[0].guest.mebibytes, both[0].seed), (512, 7));
    assert_eq!(both[0].steps.len(), 2 + 3 * 5);
    assert_eq!(both, plans(Some(7)));
    assert_ne!(both[0].steps, plans(Some(8))[0].steps);
    assert_ne!(both[0].steps, both[1].steps);
}

#[test]
fn what_is_not_drawn_is_looked_at() {
    let text = "scenario: linux/x\nabout: T.\nguest:\n  linux: { memory: 768M }\n\
        draw: { b: [0, 1, 2, 3, 4, 99, 5, 6] }\nsteps:\n  - boot\n  - fill: { buffer: $b, size: 4K }\n";
    for seed in 0..4 {
        let error = parse_linux(Path::new("x.yaml"), text, Some(seed)).unwrap_err();
        let said = crate::tests::render(&error);
        assert!(said.contains("no buffer 99"), "{said}");
    }
}

#[test]
fn every_file_of_the_set_is_right_and_fits_the_schema() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/linux");
    let validator = jsonschema::validator_for(&crate::schema()).expect("the schema is one");
    for path in crate::find_linux(&[folder]).expect("the set is there") {
        let plans = crate::load_linux(&path, None)
            .unwrap_or_else(|error| panic!("{}", crate::tests::render(&error)));
        let base = plans[0].name.split('[').next().unwrap().to_owned();
        assert!(
            path.with_extension("").ends_with(&base),
            "a file is named as its scenario"
        );
        crate::tests::assert_fits(&validator, &path);
    }
}

#[test]
fn an_editor_is_told_of_what_is_wrong_by_the_schema() {
    let validator = jsonschema::validator_for(&crate::schema()).expect("the schema is one");
    let file = |memory: &str, step: &str| -> serde_json::Value {
        let text = format!(
            r#"{{ "scenario": "l/x", "about": "T.", "guest": {{ "linux": {{ {memory} }} }}, "steps": ["boot", {step}] }}"#
        );
        serde_json::from_str(&text).expect("it is JSON")
    };
    let memory = r#""memory": "768M""#;
    assert!(validator.is_valid(&file(memory, r#"{ "verify": 0 }"#)));
    for (memory, step) in [
        (memory, r#"{ "verfy": 0 }"#),
        (memory, r#""setle""#),
        (memory, r#"{ "verify": 0, "free": 0 }"#),
        (
            memory,
            r#"{ "fill": { "buffer": 0, "size": "4K", "pages": "8K" } }"#,
        ),
        (
            memory,
            r#"{ "accept": { "range": "0..2M", "level": "2M" } }"#,
        ),
        (r#""memory": "768M", "cpus": 2"#, r#""settle""#),
    ] {
        assert!(!validator.is_valid(&file(memory, step)), "{memory} {step}");
    }
}

/// A scenario with these keys of the machine beside its memory.
fn on(keys: &str, steps: &str) -> Result<LinuxPlan, ScenarioError> {
    let text = format!(
        "scenario: linux/x\nabout: It shows something.\nguest:\n  linux: {{ memory: 768M, {keys} }}\nsteps:\n  - boot\n{steps}"
    );
    parse_linux(Path::new("x.yaml"), &text, None).map(|mut plans| plans.remove(0))
}

#[test]
fn a_disk_of_ones_own_is_read_and_what_it_cannot_is_underlined() {
    let plan = on("agent: qemu-ga, disk: ../my.qcow2", "  - settle\n").unwrap();
    assert_eq!(plan.guest.agent, AgentBy::QemuGa);
    assert_eq!(plan.guest.disk, Some("../my.qcow2".into()));
    assert!(!plan.guest.has_root());
    let root = "agent: qemu-ga, disk: my.img, append: root=/dev/vda1 rw";
    assert!(on(root, "  - settle\n").unwrap().guest.has_root());
    assert_eq!(on("vcpus: 1", "").unwrap().guest.agent, AgentBy::Init);
    for (keys, steps, says) in [
        ("disk: my.img", "", "add `agent: qemu-ga`"),
        ("agent: qemu", "", "it can be `init`, `qemu-ga`"),
        (
            "agent: qemu-ga, disk: my.img, append: quiet",
            "",
            "with `root=/dev/vda1` among them",
        ),
        ("agent: qemu-ga", "  - kexec\n", "leave `kexec` out"),
        (
            "agent: qemu-ga, disk: my.img",
            "  - fill: { buffer: 0, size: 4K, pages: kernel }\n  - convert: { buffer: 0, size: 4K, to: shared }\n",
            "take `4K` or `thp` pages",
        ),
    ] {
        let help = help_of(&on(keys, steps).unwrap_err());
        assert!(
            help.iter().any(|help| help.contains(says)),
            "{keys}: {help:?}"
        );
    }
}
