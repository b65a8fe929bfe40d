//! Plans on a user's own disk: which image, and what starts it.

use std::path::{Path, PathBuf};

use tdxlab_linux::image::First;
use tdxlab_plan::linux::{AgentBy, LinuxPlan};

/// The disk of a plan: its own, or `given` where it names none and its agent comes by qemu-ga.
pub(crate) fn path(plan: &LinuxPlan, scenario: &Path, given: Option<&Path>) -> Option<PathBuf> {
    let guest = &plan.guest;
    match &guest.disk {
        Some(disk) => {
            let folder = scenario.parent().unwrap_or(Path::new(""));
            Some(folder.join(disk))
        }
        None if guest.agent == AgentBy::QemuGa => given.map(Path::to_owned),
        None => None,
    }
}

/// Whether the disk's own boot loader starts the guest.
pub(crate) fn has_loader(plan: &LinuxPlan, disk: Option<&Path>) -> bool {
    disk.is_some() && !plan.guest.has_root()
}

/// What the first process of the lab's image does for a plan.
pub(crate) fn first(plan: &LinuxPlan, disk: Option<&Path>) -> First {
    match (plan.guest.agent, disk) {
        (_, Some(_)) => First::Root,
        (AgentBy::QemuGa, None) => First::QemuGa,
        (AgentBy::Init, None) => First::Agent,
    }
}

#[cfg(test)]
mod tests {
    use tdxlab_plan::linux::LinuxGuest;

    use super::*;

    fn plan(agent: AgentBy, disk: Option<&str>, append: &str) -> LinuxPlan {
        LinuxPlan {
            version: tdxlab_plan::VERSION,
            name: "linux/x".to_owned(),
            about: String::new(),
            seed: 1,
            td: None,
            guest: LinuxGuest {
                mebibytes: 512,
                vcpus: 1,
                append: append.to_owned(),
                agent,
                disk: disk.map(PathBuf::from),
                quotes: tdxlab_plan::linux::Quotes::None,
            },
            steps: Vec::new(),
        }
    }

    #[test]
    fn a_disk_is_found_beside_the_scenario_or_on_the_command_line() {
        let given = Some(Path::new("given.img"));
        let scenario = Path::new("set/linux/x.yaml");
        let found = |plan: &LinuxPlan| path(plan, scenario, given);
        let own = plan(AgentBy::QemuGa, Some("../my.img"), "");
        assert_eq!(found(&own), Some("set/linux/../my.img".into()));
        let absolute = plan(AgentBy::QemuGa, Some("/my.img"), "");
        assert_eq!(found(&absolute), Some("/my.img".into()));
        let none = plan(AgentBy::QemuGa, None, "");
        assert_eq!(found(&none), Some("given.img".into()));
        assert_eq!(found(&plan(AgentBy::Init, None, "")), None);
    }

    #[test]
    fn a_disk_starts_by_itself_unless_its_root_is_named() {
        let disk = Some(Path::new("my.img"));
        let own = plan(AgentBy::QemuGa, Some("my.img"), "");
        assert!(has_loader(&own, disk) && !has_loader(&own, None));
        let root = plan(AgentBy::QemuGa, Some("my.img"), "root=/dev/vda rw");
        assert!(!has_loader(&root, disk));
        assert_eq!(first(&root, disk), First::Root);
        assert_eq!(first(&own, None), First::QemuGa);
        assert_eq!(first(&plan(AgentBy::Init, None, ""), None), First::Agent);
    }
}
