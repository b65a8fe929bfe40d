//! `tdxlab linux`: runs scenarios of Linux guests.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, FromArgMatches, ValueEnum};
use tdxlab_host::OnHost;
use tdxlab_journal::folder::RunFolder;
use tdxlab_journal::journal::{Journal, PlanId, RunStarted};
use tdxlab_l1::KernelChoice;
use tdxlab_linux::image::{self, PACKAGE};
use tdxlab_linux::machine::Td;
use tdxlab_linux::{Board, ImageOptions, firmware};
use tdxlab_linux_run::{Baseline, Images, LinuxCase, LinuxRunner, Place};
use tdxlab_plan::linux::AgentBy;
use tdxlab_plan::{HostKind, HostProfile};
use tdxlab_qemu::{Accelerator, Installed, Version};
use tdxlab_report::terminal;
use tdxlab_run::{AnyPlan, Resumable};

use super::error::CliError;
use super::options::Scenarios;
use super::report::exit_code;
use super::{load, output, progress, rounds, signals};
use tdxlab_launch::spec::FinishedRun;

/// The oldest QEMU that a plain guest boots in.
const NEEDED: Version = Version::new(7, 2);

/// Run scenarios of Linux guests.
///
/// The guest is an unmodified kernel of a distribution, or one's own, with an agent as its only
/// program. It is plain under QEMU's translator or KVM, or a TD.
#[derive(Args, Debug)]
pub(super) struct Linux {
    /// Scenario files, or folders of them; the default is there in a checkout only
    #[arg(
        value_name = "PATH",
        default_value = "scenarios/linux",
        conflicts_with = "resume"
    )]
    paths: Vec<PathBuf>,
    /// RNG seed, in place of those in the scenarios
    #[arg(long, value_name = "S", conflicts_with = "resume")]
    seed: Option<u64>,
    /// Continue a run that was ended early, with the same options
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    resume: Option<PathBuf>,
    /// What the guests are
    #[arg(long, value_enum, default_value = "auto", env = "TDXLAB_LINUX_HOST")]
    host: GuestKind,
    /// Kernel of the guests: a bzImage or vmlinux, PACKAGE or PACKAGE@SUITE
    #[arg(long, value_name = "KERNEL", default_value = PACKAGE)]
    guest_kernel: KernelChoice,
    /// Folder of the kernel's modules, where it is not found beside the image
    #[arg(long, value_name = "DIR")]
    guest_modules: Option<PathBuf>,
    /// Folder of the kernel's headers, to build the module that converts pages
    #[arg(long, value_name = "DIR")]
    guest_headers: Option<PathBuf>,
    /// The module that converts pages, built for the kernel before
    #[arg(long, value_name = "FILE", conflicts_with = "guest_headers")]
    pages_module: Option<PathBuf>,
    /// Firmware of a TD, in place of the one that QEMU's descriptors name for TDX; or of a plain guest
    /// whose disk boots by itself, in place of what the disk needs
    #[arg(long, value_name = "FILE")]
    firmware: Option<PathBuf>,
    /// Disk image for scenarios with `agent: qemu-ga` that name none: raw or qcow2, never written
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,
    /// Board of plain guests
    #[arg(long, value_enum, default_value = "microvm")]
    board: BoardName,
    /// Guests at the same time; by default one per CPU, of TDs always one
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Parent directory for reports
    #[arg(long, value_name = "DIR", default_value = "reports")]
    out: PathBuf,
    /// Keep the evidence of passing scenarios too
    #[arg(long)]
    keep: bool,
    /// Judge boots by those of this earlier run, of the same QEMU, firmware and guest kernel
    #[arg(long, value_name = "DIR")]
    baseline: Option<PathBuf>,
    /// Time limit without a sign of life, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120,
          value_parser = clap::value_parser!(u64).range(1..=86400))]
    patience: u64,
    /// Print failures only
    #[arg(long, short)]
    quiet: bool,
}

/// What Linux guests are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum GuestKind {
    /// Plain guests: on KVM where it is usable, else under QEMU's translator
    Auto,
    /// Plain guests under QEMU's translator
    Tcg,
    /// Plain guests on KVM
    Kvm,
    /// TDs
    Tdx,
}

/// The board of a plain guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BoardName {
    /// The smallest and fastest
    Microvm,
    /// A PC
    Q35,
}

impl Linux {
    /// The command that these words give, which come after `linux`.
    pub(super) fn of_words(words: &[OsString]) -> Result<Linux, clap::Error> {
        let command = Linux::augment_args(clap::Command::new("linux").no_binary_name(true));
        Linux::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    pub(super) fn execute(self) -> Result<u8, CliError> {
        let interrupt = signals::install()?;
        let (kind, why) = self.kind();
        let jobs = self.jobs(kind)?;
        let place = self.place(kind)?;
        let baseline = self.baseline(&place)?;
        let Started {
            folder,
            journal,
            cases,
        } = match &self.resume {
            Some(folder) => resumed(folder, host_kind(kind), &self.facts(&place))?,
            None => self.started(kind, &why, &place)?,
        };
        if !self.quiet {
            output::note(format!("Linux guests: {why}"));
        }
        let watcher = progress::watcher(cases.len(), jobs.min(cases.len()), self.quiet);
        let runner = LinuxRunner {
            place,
            images: self.images(),
            journal: &journal,
            folder: &folder,
            interrupt,
            patience: Duration::from_secs(self.patience),
            keep: self.keep,
            baseline: baseline.as_ref(),
            watcher: watcher.as_ref(),
        };
        runner.run_all(jobs, &cases)?;
        drop(watcher);
        let mut finished = FinishedRun::of(&folder)?;
        output::print(match self.quiet {
            true => terminal::failures(&finished.report, &finished.folder),
            false => terminal::summary(&finished.report, &finished.folder),
        });
        finished.whole()?;
        Ok(exit_code(&finished.report, false))
    }

    /// Makes the images of TDs, and has what they are made of in the cache, before they run in an emulated
    /// machine: there, unpacking a kernel takes ten seconds, and there is no network. What could not be made
    /// is told there, with its plan. `offline`, what may be downloaded is left out.
    ///
    /// # Errors
    ///
    /// The scenarios cannot be read, or qemu-ga cannot be had.
    pub(super) fn make_images(&self, offline: bool) -> Result<(), CliError> {
        let packaged = !matches!(self.guest_kernel, KernelChoice::Image(_));
        if self.resume.is_some() || (offline && packaged) {
            return Ok(());
        }
        let images = self.images();
        for case in load::linux(&self.scenarios())? {
            let guest = &case.plan.guest;
            let has_disk = guest.disk.is_some() || self.disk.is_some();
            match guest.agent == AgentBy::QemuGa && !has_disk {
                true if offline => continue,
                true => image::fetch_qemu_ga()?,
                false => {}
            }
            if case.plan.td != Some(false) {
                let _ = images.of(&case, true, self.disk.as_deref());
            }
        }
        Ok(())
    }

    fn images(&self) -> Images {
        Images::new(ImageOptions {
            kernel: self.guest_kernel.clone(),
            modules: self.guest_modules.clone(),
            headers: self.guest_headers.clone(),
            pages_module: self.pages_module.clone(),
            ..ImageOptions::default()
        })
    }

    /// Guests at the same time.
    fn jobs(&self, kind: GuestKind) -> Result<usize, CliError> {
        let host = HostProfile::of(host_kind(kind));
        match (self.jobs, host.guests_at_a_time) {
            (Some(jobs), Some(most)) if jobs > most => Err(CliError::usage(
                format!(
                    "--jobs {jobs}, and TDs run one at a time: some counters are of the whole host"
                ),
                "leave out --jobs",
            )),
            (asked, _) => Ok(rounds::jobs(asked, host)),
        }
    }

    fn scenarios(&self) -> Scenarios {
        Scenarios {
            paths: self.paths.clone(),
            seed: self.seed,
        }
    }

    /// Kind of the guests, and why.
    fn kind(&self) -> (GuestKind, String) {
        let said = |text: &str| text.to_owned();
        match self.host {
            GuestKind::Auto => {
                let kvm = tdxlab_kernel::doctor::kvm();
                match kvm.standing == tdxlab_kernel::doctor::Status::Usable {
                    true => (GuestKind::Kvm, said("plain, on KVM")),
                    false => (
                        GuestKind::Tcg,
                        format!("plain, under QEMU's translator: {}", kvm.found),
                    ),
                }
            }
            GuestKind::Tcg => (
                GuestKind::Tcg,
                said("plain, under QEMU's translator, as asked"),
            ),
            GuestKind::Kvm => (GuestKind::Kvm, said("plain, on KVM, as asked")),
            GuestKind::Tdx => (GuestKind::Tdx, said("TDs, as asked")),
        }
    }

    /// The run to judge boots by.
    fn baseline(&self, place: &Place) -> Result<Option<Baseline>, CliError> {
        let Some(folder) = &self.baseline else {
            return Ok(None);
        };
        let baseline = Baseline::of_run(folder)?;
        baseline.check(&facts(place)).map_err(|why| {
            CliError::usage(
                format!("{} is no baseline of this run: {why}", folder.display()),
                "record one with the same QEMU and firmware, by a run without --baseline",
            )
        })?;
        Ok(Some(baseline))
    }

    fn place(&self, kind: GuestKind) -> Result<Place, CliError> {
        let host = host_kind(kind);
        let qemu = Installed::find(NEEDED).map_err(|error| error.on(host))?;
        let td = match kind {
            GuestKind::Tdx => {
                let named = self.firmware.clone().map_or_else(firmware::find, Ok);
                let firmware = named.map_err(|error| {
                    CliError::usage(error.to_string(), "name one with --firmware")
                })?;
                Some(Td {
                    firmware,
                    quotes: None,
                })
            }
            _ => None,
        };
        Ok(Place {
            qemu,
            accelerator: match kind {
                GuestKind::Tcg | GuestKind::Auto => Accelerator::Tcg,
                GuestKind::Kvm | GuestKind::Tdx => Accelerator::Kvm,
            },
            board: match self.board {
                BoardName::Microvm => Board::Microvm,
                BoardName::Q35 => Board::Q35,
            },
            td,
            firmware: self.firmware.clone(),
            disk: self.disk.clone(),
        })
    }

    fn started(&self, kind: GuestKind, why: &str, place: &Place) -> Result<Started, CliError> {
        let cases = load::linux(&self.scenarios())?;
        let folder = RunFolder::create(&self.out)?;
        let fact = |name: &str, value: String| (name.to_owned(), value);
        let mut facts = vec![fact("Linux guests", why.to_owned())];
        facts.extend(self.facts(place));
        let host = host_kind(kind);
        let journal = folder.begin(RunStarted {
            host_reason: why.to_owned(),
            facts,
            plans: cases.iter().map(|case| case.plan.name.clone()).collect(),
            paths: self.paths.clone(),
            seed: self.seed,
            ..folder.head(host, HostProfile::of(host))
        })?;
        Ok(Started {
            folder,
            journal,
            cases: (0..).map(PlanId).zip(cases).collect(),
        })
    }

    /// Facts of the guests and of the machine that they run on.
    fn facts(&self, place: &Place) -> Vec<(String, String)> {
        let kernel = ("guest kernel".to_owned(), self.guest_kernel.to_string());
        let mut facts = vec![kernel];
        if let BoardName::Q35 = self.board {
            facts.push(("board".to_owned(), "q35".to_owned()));
        }
        facts.extend(self::facts(place));
        facts
    }
}

/// Facts of the machine that guests run on.
fn facts(place: &Place) -> Vec<(String, String)> {
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let of_td = place.td.as_ref().map(|td| &td.firmware);
    let firmware = of_td.or(place.firmware.as_ref());
    let firmware = firmware.map(|firmware| firmware.display().to_string());
    let qemu = fact("QEMU", place.qemu.banner.clone());
    let firmware = firmware.map(|firmware| fact("firmware", firmware));
    let disk = place.disk.as_ref();
    let disk = disk.map(|disk| fact("disk", disk.display().to_string()));
    [qemu].into_iter().chain(firmware).chain(disk).collect()
}

/// A run, and the plans that are left of it.
struct Started {
    folder: RunFolder,
    journal: Journal,
    cases: Vec<(PlanId, LinuxCase)>,
}

/// The rest of a run, as its journal says it was started: on guests with the same facts.
fn resumed(folder: &Path, host: HostKind, facts: &[(String, String)]) -> Result<Started, CliError> {
    let progress = Resumable::of(folder)?;
    let head = &progress.head;
    if !head.is_of_linux() {
        return Err(CliError::usage(
            format!("{} is no run of Linux guests", folder.display()),
            "resume it with `tdxlab run --resume`",
        ));
    }
    if head.host != host {
        let (was, is) = (head.host.name(), host.name());
        return Err(CliError::usage(
            format!("{} was on {was}, this would be on {is}", folder.display()),
            "give the same --host as then",
        ));
    }
    let names = ["guest kernel", "board", "QEMU", "firmware", "disk"];
    for name in names {
        let of = |facts: &[(String, String)]| {
            let found = facts.iter().find(|(fact, _)| fact == name);
            found.map_or("none".to_owned(), |(_, value)| value.clone())
        };
        let (was, is) = (of(&head.facts), of(facts));
        if was != is {
            return Err(CliError::usage(
                format!(
                    "{name} of {} was {was}, this would be {is}",
                    folder.display()
                ),
                "give the same options as then",
            ));
        }
    }
    let scenarios = Scenarios {
        paths: head.paths.clone(),
        seed: head.seed,
    };
    let cases = progress.left(load::linux(&scenarios)?, |case: &LinuxCase| {
        AnyPlan::from(&case.plan)
    })?;
    let started = head.started.parse().unwrap_or_default();
    Ok(Started {
        folder: RunFolder::existing(folder, &head.run, started),
        journal: progress.journal()?,
        cases,
    })
}

/// The kind of host that a report calls it.
fn host_kind(kind: GuestKind) -> HostKind {
    match kind {
        GuestKind::Auto | GuestKind::Tcg => HostKind::Soft,
        GuestKind::Kvm => HostKind::Kvm,
        GuestKind::Tdx => HostKind::Tdx,
    }
}
