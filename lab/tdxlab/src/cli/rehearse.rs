//! `tdxlab rehearse`: the `tdx` host with everything but the silicon.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tdxlab_l1::rehearse::{self, Choice, Distributed, Parts, RehearsalError};
use tdxlab_l1::{AcceleratorChoice, KernelChoice, Memory, Options};
use tdxlab_linux::pages_module;
use tdxlab_qemu::installed::PROGRAM_VARIABLE;

use tdxlab_scenario as scenario;

use super::error::CliError;
use super::linux::Linux;
use super::output;

/// Sets KVM's parameters in the emulated machine, and becomes the command.
const SET_PARAMETERS: &str = "parameters=/sys/module/kvm/parameters
    echo \"$1\" >$parameters/softtdx_design
    echo \"$2\" >$parameters/softtdx_bug
    shift 2
    exec \"$@\"";

/// In place of a bug's name.
const LIST: &str = "list";

fn known_design(name: &str) -> Result<String, String> {
    let designs = tdxlab_softtdx::designs();
    if designs.iter().any(|design| design.name == name) {
        return Ok(name.to_owned());
    }
    let names: Vec<&str> = designs.iter().map(|design| design.name).collect();
    Err(format!("there is {}", names.join(", ")))
}

fn known_bug(name: &str) -> Result<String, String> {
    let bugs = tdxlab_softtdx::bugs();
    if name == LIST || bugs.iter().any(|bug| bug.name == name) {
        return Ok(name.to_owned());
    }
    Err("--bug list names those there are".to_owned())
}

/// Prints the current step.
fn progress(doing: &str) {
    output::note(format!("rehearse: {doing}"));
}

/// Rehearse the `tdx` host: unmodified QEMU makes TDs on KVM's own TDX code in an emulated machine; the
/// TDX module under it is played.
///
/// KVM's TDX code, its page tables, guest_memfd and QEMU are real; the module is not, and the report
/// says so. The parts (QEMU, a kernel, a compiler) are downloaded once, 404 MB, and kept in the
/// user's cache folder; nothing is installed.
#[derive(Args, Debug)]
pub(super) struct Rehearse {
    /// Scenario files, folders of them, or names of the default set; without any, all of that set.
    /// Scenarios of Linux guests run their Linux as a TD
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Only fetch and build the parts, or bring them up to date
    #[arg(long, conflicts_with_all = ["paths", "options"])]
    prepare: bool,

    /// Keep what was downloaded and built on the way
    #[arg(long, requires = "prepare")]
    keep: bool,

    /// Never download; with --prepare, only check whether the parts are there
    #[arg(long)]
    offline: bool,

    /// How KVM handles huge pages of TDs: stock, v3, v5, headtail or walk
    #[arg(long, value_name = "DESIGN", default_value = "stock", value_parser = known_design)]
    design: String,

    /// Build KVM's modules of this kernel source, in place of the distribution's
    #[arg(long, value_name = "TREE", conflicts_with = "prepare")]
    source: Option<PathBuf>,

    /// Kernel: `newest` or a version of Debian's, such as 7.2, whose parts are a download of their
    /// own; with --source, also the arch/x86/boot/bzImage that was built with the modules from TREE
    #[arg(long, value_name = "KERNEL", default_value = "newest")]
    kernel: Choice,

    /// Seed a bug into KVM: `list` names them
    #[arg(long, value_name = "NAME", value_parser = known_bug)]
    bug: Option<String>,

    /// In place of scenarios, run this program inside, with the words after `--`: a shell,
    /// `tdxlab doctor --deep`
    #[arg(long, value_name = "PROGRAM", conflicts_with_all = ["paths", "prepare"])]
    command: Option<PathBuf>,

    /// Memory of the emulated machine
    #[arg(long, value_name = "SIZE", default_value_t = Memory::USUAL)]
    memory: Memory,

    /// Tell the program inside where KVM's own selftests are
    #[arg(skip)]
    selftests: bool,

    /// Parent directory for reports
    #[arg(long, value_name = "DIR", default_value = "reports")]
    out: PathBuf,

    /// Further options for `tdxlab run`, which runs inside, or for the program
    #[arg(last = true, value_name = "OPTIONS")]
    options: Vec<OsString>,
}

impl Rehearse {
    /// This program inside, with these arguments.
    pub(super) fn of_this_program(arguments: impl Iterator<Item = OsString>) -> Rehearse {
        Rehearse {
            paths: Vec::new(),
            prepare: false,
            keep: false,
            offline: false,
            design: "stock".to_owned(),
            source: None,
            kernel: Choice::Distributed(Distributed::Newest),
            bug: None,
            command: std::env::current_exe().ok(),
            memory: Memory::USUAL,
            selftests: false,
            out: PathBuf::from("reports"),
            options: arguments.collect(),
        }
    }

    /// With `--selftests` and the folder of KVM's own selftests as further arguments.
    pub(super) fn with_selftests(self) -> Rehearse {
        Rehearse {
            selftests: true,
            ..self
        }
    }

    /// The exit code is that of the `tdxlab run` inside.
    pub(super) fn execute(self) -> Result<u8, CliError> {
        if self.bug.as_deref() == Some(LIST) {
            for bug in tdxlab_softtdx::bugs() {
                output::say(format_args!("{:24} {}", bug.name, bug.what));
            }
            return Ok(super::exit::PASSED);
        }
        let cache = rehearse::cache_folder()?;
        let distributed = match &self.kernel {
            Choice::Distributed(distributed) => distributed.clone(),
            // QEMU is needed all the same.
            Choice::Image(image) if self.source.is_some() => Distributed::Newest,
            Choice::Image(_) => {
                return Err(CliError::usage(
                    "--kernel with an image needs --source",
                    "give the tree that it was built from, whose KVM is rehearsed",
                ));
            }
        };
        let parts = match rehearse::ready(&cache, &distributed) {
            Some(parts) if !self.prepare || self.offline => parts,
            _ if self.offline => return Err(RehearsalError::NotPrepared { folder: cache }.into()),
            _ => rehearse::prepare(&cache, &distributed, self.keep, &mut progress)?,
        };
        output::note(format!("rehearse: {parts}"));
        if self.prepare {
            return Ok(super::exit::PASSED);
        }
        self.run(&parts, &cache)
    }

    fn run(self, parts: &Parts, cache: &Path) -> Result<u8, CliError> {
        let folder = std::env::current_dir().map_err(|source| CliError::System {
            doing: "finding the working folder".to_owned(),
            source,
        })?;
        let (kernel, modules) = match (&self.kernel, &self.source) {
            (Choice::Image(image), Some(source)) => {
                let modules = rehearse::modules_for(cache, source, image, &mut progress)?;
                (image.clone(), modules)
            }
            (_, Some(source)) => (parts.kernel(), parts.modules_of(source, &mut progress)?),
            (_, None) => (parts.kernel(), parts.current_modules(&mut progress)?),
        };
        let options = Options {
            kernel: KernelChoice::Image(kernel),
            modules: Some(modules),
            fresh: false,
            accelerator: AcceleratorChoice::Tcg,
            memory: self.memory,
            qemu: parts.qemu(),
            patience: Duration::from_secs(120),
            command: self.command(parts)?,
            report: Some(folder.join(&self.out)),
            folder,
        };
        output::note("REHEARSAL: KVM's own TDX code on a software TDX module; this is not TDX");
        let outcome = super::l1::run(&options)?;
        output::note(format!(
            "REHEARSAL on Linux {}: KVM's own TDX code on a software TDX module; this was not TDX",
            outcome.release
        ));
        Ok(super::l1::exit_code(&outcome))
    }

    /// `tdxlab run --host tdx`, or the given program, with the QEMU of the parts and the selected
    /// KVM.
    fn command(&self, parts: &Parts) -> Result<Vec<String>, CliError> {
        let own = std::env::current_exe().map_err(|source| CliError::System {
            doing: "finding this program".to_owned(),
            source,
        })?;
        let setting = |name: &str, path: &Path| {
            let mut setting = OsString::from(format!("{name}="));
            setting.push(path);
            setting
        };
        let mut command: Vec<OsString> = ["/bin/sh", "-ec", SET_PARAMETERS, "tdxlab", &self.design]
            .map(OsString::from)
            .into();
        command.push(self.bug.as_deref().unwrap_or("none").into());
        command.push("/usr/bin/env".into());
        command.push(setting(PROGRAM_VARIABLE, &parts.qemu()));
        match &self.command {
            Some(program) => {
                command.push(program.into());
                command.extend(self.options.iter().cloned());
                if self.selftests {
                    command.push("--selftests".into());
                    command.push(parts.selftests(&mut progress)?.into());
                }
            }
            None if self.are_of_linux()? => self.linux(own.into(), parts, &mut command)?,
            None => self.scenarios(own.into(), &mut command),
        }
        let text = |word: OsString| {
            word.into_string().map_err(|word| {
                CliError::usage(format!("{} is not UTF-8", word.display()), "rename it")
            })
        };
        command.into_iter().map(text).collect()
    }

    /// Whether the paths are of Linux guests: all of them, or none.
    fn are_of_linux(&self) -> Result<bool, CliError> {
        let is = |path: &PathBuf| match path.is_dir() {
            true => {
                let path = std::slice::from_ref(path);
                scenario::find_linux(path).is_ok() && scenario::find(path).is_err()
            }
            false => scenario::is_of_linux(path),
        };
        let linux = self.paths.iter().filter(|path| is(path));
        match linux.count() {
            0 => Ok(false),
            all if all == self.paths.len() => Ok(true),
            _ => Err(CliError::usage(
                "scenarios of Linux guests and of others do not run together",
                "rehearse the one, then the other",
            )),
        }
    }

    /// `tdxlab linux` inside: the parts' kernel, started by their firmware.
    fn linux(
        &self,
        own: OsString,
        parts: &Parts,
        command: &mut Vec<OsString>,
    ) -> Result<(), CliError> {
        let firmware = parts.firmware().ok_or_else(|| {
            CliError::usage(
                "these parts have no firmware",
                "bring them up to date with `tdxlab rehearse --prepare`",
            )
        })?;
        let pages = pages_module::in_parts(parts)?;
        let mut words: Vec<OsString> = ["--host", "tdx", "--out"].map(OsString::from).into();
        words.push(self.out.clone().into());
        for (option, path) in [
            ("--firmware", firmware),
            ("--guest-kernel", parts.kernel()),
            ("--guest-modules", parts.modules()),
            ("--pages-module", pages),
        ] {
            // The user's own goes before.
            if self.has_option(option) {
                continue;
            }
            words.push(option.into());
            words.push(path.into());
        }
        words.extend(self.options.iter().cloned());
        words.extend(self.paths.iter().map(OsString::from));
        // Words that are wrong are told inside.
        if let Ok(linux) = Linux::of_words(&words) {
            progress("the images of Linux guests");
            linux.make_images(self.offline)?;
        }
        command.push(own);
        command.push("linux".into());
        command.extend(words);
        Ok(())
    }

    fn scenarios(&self, own: OsString, command: &mut Vec<OsString>) {
        command.push(own);
        command.extend(["run", "--host", "tdx", "--jobs", "1", "--out"].map(OsString::from));
        command.push(self.out.clone().into());
        if let Some(design) = self.not_to_be_told_apart() {
            command.extend(["--design", design].map(OsString::from));
        }
        command.extend(self.options.iter().cloned());
        command.extend(self.paths.iter().map(OsString::from));
    }

    /// The design to judge by, where the TD of a probe cannot find it out: `v3` looks like `v5` from
    /// outside. These kernels convert by attributes.
    fn not_to_be_told_apart(&self) -> Option<&'static str> {
        (self.design == "v3" && !self.has_option("--design")).then_some("v3-attributes")
    }

    /// Whether an option for the program inside was given.
    fn has_option(&self, name: &str) -> bool {
        self.options.iter().any(|option| {
            let option = option.to_string_lossy();
            let rest = option.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        })
    }
}
