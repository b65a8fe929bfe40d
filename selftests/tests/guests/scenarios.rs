//! Every scenario of the default set, on `sim` under every design and on `soft`.
//!
//! `TDXLAB_HOST` names another host to run them on instead.

use std::path::{Path, PathBuf};

use rstest::rstest;
use tdxlab::host::{Host, HostError};
use tdxlab::journal::Verdict;
use tdxlab::plan::{Design, HostKind};
use tdxlab::run::InMemoryRunner;
use tdxlab::select::{self, Choice};
use tdxlab_selftests::failing::plans;

/// The host that the environment asks for, if it does.
fn asked_for() -> Option<HostKind> {
    let name = std::env::var("TDXLAB_HOST").ok()?;
    let all = [HostKind::Tdx, HostKind::Kvm, HostKind::Soft, HostKind::Sim];
    let kind = all.into_iter().find(|kind| kind.name() == name);
    Some(kind.unwrap_or_else(|| panic!("TDXLAB_HOST={name} is no host")))
}

/// The host; `None` if it is not selected or not available here.
fn host(kind: HostKind) -> Option<Box<dyn Host>> {
    let kind = match asked_for() {
        Some(asked) if kind == HostKind::Soft => asked,
        Some(_) => return None,
        None => kind,
    };
    match select::select(Choice::Only(kind)) {
        Ok(selected) => Some(selected.host),
        Err(HostError::NotUsable { reason, .. }) if asked_for().is_none() => {
            eprintln!("skipped: {} is not usable: {reason}", kind.name());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn passes(path: &Path, host: &dyn Host, design: &str) {
    let design = Design::named(design).unwrap();
    let runner = InMemoryRunner::new(host, design).unwrap();
    for item in plans(path) {
        let result = runner.run(&item);
        match (&result.outcome.verdict, &result.outcome.reason) {
            (Verdict::Pass, _) => {}
            (Verdict::Skip, Some(need)) => eprintln!("skipped: {}: {need}", item.plan.name),
            _ => panic!("{}: {result:#?}", item.plan.name),
        }
    }
}

#[rstest]
fn on_sim(
    #[files("../scenarios/**/*.yaml")]
    #[exclude("scenarios/linux/")]
    path: PathBuf,
    #[values(
        "stock",
        "v3",
        "v5",
        "headtail",
        "stock-in-place",
        "v5-attributes",
        "headtail-attributes"
    )]
    design: &str,
) {
    if let Some(host) = host(HostKind::Sim) {
        passes(&path, host.as_ref(), design);
    }
}

#[rstest]
fn on_soft(
    #[files("../scenarios/**/*.yaml")]
    #[exclude("scenarios/linux/")]
    path: PathBuf,
    #[values("stock", "v3", "headtail")] design: &str,
) {
    if let Some(host) = host(HostKind::Soft) {
        passes(&path, host.as_ref(), design);
    }
}
