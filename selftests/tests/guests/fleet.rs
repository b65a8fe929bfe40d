//! Shards on a real Slurm: two nodes on this machine, one of which dies in the middle.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, getuid};
use tdxlab_selftests::command::root;
use tdxlab_selftests::programs::{output_of, program};
use tdxlab_selftests::recorded::{report_of, timeless};
use tdxlab_selftests::tdxlab;

const SHARDS: usize = 8;

/// Not those that race: which of two vCPUs comes first is another every time.
const SCENARIOS: [&str; 5] = [
    "scenarios/accept",
    "scenarios/convert",
    "scenarios/mixed",
    "scenarios/punch",
    "scenarios/scale",
];

/// Slurm finds a dead node and requeues its task within half a minute; on a busy machine all is
/// slower.
const PATIENCE: Duration = Duration::from_secs(400);

/// The daemons of a cluster. They and all they have started end with it.
struct Cluster {
    folder: tempfile::TempDir,
    daemons: Vec<(String, Child)>,
}

impl Cluster {
    /// A controller and the nodes `n1` and `n2`; `None`, and why, where Slurm is not installed.
    fn start() -> Option<Cluster> {
        let what = "a Slurm cluster";
        let [munged, controller, node] =
            ["munged", "slurmctld", "slurmd"].map(|name| program(&[name], what));
        let (munged, controller, node) = (munged?, controller?, node?);
        program(&["sbatch"], what)?;
        program(&["qemu-system-x86_64", "qemu-kvm"], what)?;
        let folder = tempfile::tempdir().unwrap();
        // Munge wants every user to reach its socket.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let mut cluster = Cluster {
            folder,
            daemons: Vec::new(),
        };
        fs::write(cluster.configuration(), cluster.text()).unwrap();
        cluster.munge(&munged);
        cluster.daemon("controller", Command::new(controller).args(["-D", "-c"]));
        for name in ["n1", "n2"] {
            cluster.daemon(name, Command::new(&node).args(["-D", "-N", name]));
        }
        cluster.until("both nodes are idle", |cluster| {
            let mut nodes = cluster.command("sinfo");
            let nodes = nodes.args(["-h", "-N", "-o", "%T"]).output().unwrap();
            nodes.stdout == b"idle\nidle\n"
        });
        Some(cluster)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn configuration(&self) -> PathBuf {
        self.path().join("slurm.conf")
    }

    fn text(&self) -> String {
        // All are held until all are known, so that no two are the same.
        let ports = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [controller, first, second] = ports.map(|port| port.local_addr().unwrap().port());
        let user = User::from_uid(getuid()).unwrap().unwrap().name;
        let path = self.path().display();
        // A requeued task waits for as long as credentials are valid.
        format!(
            "ClusterName=tdxlab
SlurmctldHost=localhost
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={path}/munge.socket,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={path}/state
SlurmdSpoolDir={path}/spool-%n
SlurmctldPidFile={path}/slurmctld.pid
SlurmdPidFile={path}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
MpiDefault=none
ReturnToService=2
SlurmdTimeout=5
MessageTimeout=5
KillWait=2
SchedulerType=sched/builtin
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={first} CPUs=1
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={second} CPUs=1
PartitionName=tdx Nodes=n1,n2 Default=YES MaxTime=120 State=UP
"
        )
    }

    fn munge(&mut self, munged: &Path) {
        let path = self.path().to_owned();
        let key = path.join("munge.key");
        fs::write(&key, [7; 64]).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let mut command = Command::new(munged);
        command.arg("--foreground");
        for (option, file) in [
            ("--key-file", "munge.key"),
            ("--socket", "munge.socket"),
            ("--pid-file", "munge.pid"),
            ("--log-file", "munge.log"),
            ("--seed-file", "munge.seed"),
        ] {
            command.arg(option).arg(path.join(file));
        }
        self.daemon("munge", &mut command);
        self.until("munged listens", |cluster| {
            cluster.path().join("munge.socket").exists()
        });
    }

    /// Starts a daemon, with its output in a file.
    fn daemon(&mut self, name: &str, command: &mut Command) {
        let log = fs::File::create(self.path().join(format!("{name}.out"))).unwrap();
        let child = command
            .env("SLURM_CONF", self.configuration())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemons.push((name.to_owned(), child));
    }

    /// A command of Slurm, from the root of the repository.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command
            .current_dir(root())
            .env("SLURM_CONF", self.configuration())
            .env("TDXLAB", env!("CARGO_BIN_EXE_tdxlab-under-test"))
            .env("TDXLAB_HOST", "soft")
            .env("TDXLAB_OUT", self.path().join("out"));
        command
    }

    /// Submits a script; gives the number of the job back.
    fn submit(&self, options: &[&str], script: &str, args: &[&str]) -> String {
        let mut command = self.command("sbatch");
        let log = self.path().join("%A_%a.log");
        command
            .arg("--parsable")
            .arg(format!("--output={}", log.display()))
            .args(options)
            .arg(root().join("ci/slurm").join(script))
            .args(args);
        output_of(&mut command).trim().to_owned()
    }

    /// Waits for a condition, and shows the daemons' output on a timeout.
    #[track_caller]
    fn until(&self, what: &str, mut is: impl FnMut(&Cluster) -> bool) {
        let begin = Instant::now();
        while !is(self) {
            assert!(
                begin.elapsed() < PATIENCE,
                "waited in vain until {what}\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Logs of daemons and jobs.
    fn logs(&self) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(self.path()).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_some_and(|kind| kind == "out" || kind == "log")
            {
                let said = fs::read(&path).unwrap_or_default();
                text += &format!("== {}\n{}", path.display(), String::from_utf8_lossy(&said));
            }
        }
        text
    }

    /// Processes of this cluster, with its jobs and their children.
    fn processes(&self) -> Vec<Process> {
        let mark = format!("SLURM_CONF={}", self.configuration().display());
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(Process::of)
            .filter(|process| process.environment.contains(&mark))
            .collect()
    }

    /// The runner of a task on the node `n2`, and which task that is.
    fn runner_on_second_node(&self) -> Option<(Pid, usize)> {
        self.processes().into_iter().find_map(|process| {
            let task = process.variable("SLURM_ARRAY_TASK_ID")?.parse().ok()?;
            let on_second = process.variable("SLURMD_NODENAME")? == "n2";
            (on_second && process.is_batch_script()).then_some((process.pid, task))
        })
    }

    /// Ends everything on `n2`, as a power cut would: daemon, job, and the parent of the job.
    fn lose_second_node(&mut self) {
        let (_, node) = self
            .daemons
            .iter_mut()
            .find(|(name, _)| name == "n2")
            .unwrap();
        node.kill().unwrap();
        node.wait().unwrap();
        let all = self.processes();
        for process in &all {
            if process.variable("SLURMD_NODENAME") == Some("n2") {
                let parent = all.iter().find(|other| other.pid == process.parent);
                for process in parent.into_iter().chain([process]) {
                    let _ = kill(process.pid, Signal::SIGKILL);
                }
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (_, daemon) in &mut self.daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        for process in self.processes() {
            let _ = kill(process.pid, Signal::SIGKILL);
        }
    }
}

/// A process, as /proc shows it.
struct Process {
    pid: Pid,
    parent: Pid,
    environment: Vec<String>,
}

impl Process {
    fn of(pid: i32) -> Option<Process> {
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        Some(Process {
            pid: Pid::from_raw(pid),
            parent: Pid::from_raw(parent.trim().parse().ok()?),
            environment: String::from_utf8_lossy(&environment)
                .split('\0')
                .map(str::to_owned)
                .collect(),
        })
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.environment
            .iter()
            .find_map(|variable| variable.strip_prefix(name)?.strip_prefix('='))
    }

    /// Whether Slurm started it itself; such a process keeps its number over `exec`.
    fn is_batch_script(&self) -> bool {
        self.variable("SLURM_TASK_PID") == Some(&self.pid.to_string())
    }
}

fn events(journal: &Path, kind: &str) -> usize {
    let text = fs::read_to_string(journal).unwrap_or_default();
    text.matches(&format!("\"{kind}\"")).count()
}

#[test]
fn a_node_that_dies_costs_no_scenario() {
    let Some(mut cluster) = Cluster::start() else {
        return;
    };
    let out = cluster.path().join("out");
    let options = [&["--jobs", "1"][..], &SCENARIOS].concat();
    let job = cluster.submit(&[], "nightly.sbatch", &options);
    let journal = |task: usize| out.join(format!("part-{task}/latest/journal.jsonl"));

    let mut lost = 0;
    cluster.until("a task of n2 is half done", |cluster| {
        let Some((runner, task)) = cluster.runner_on_second_node() else {
            return false;
        };
        let journal = journal(task);
        if events(&journal, "plan_ended") == 0 {
            return false;
        }
        // It is stopped meanwhile; a finished one is of no use.
        if kill(runner, Signal::SIGSTOP).is_err() || events(&journal, "run_ended") > 0 {
            let _ = kill(runner, Signal::SIGCONT);
            return false;
        }
        lost = task;
        true
    });
    cluster.lose_second_node();
    let merging = cluster.submit(
        &[&format!("--dependency=afterany:{job}")],
        "merge.sbatch",
        &[out.to_str().unwrap()],
    );
    cluster.until("the parts are merged", |cluster| {
        let mut queue = cluster.command("squeue");
        let queue = queue.args(["-h", "-o", "%i"]).output().unwrap();
        queue.status.success() && !String::from_utf8_lossy(&queue.stdout).contains(&merging)
    });

    let merged = out.join("merged/latest");
    assert!(merged.join("report.json").is_file(), "{}", cluster.logs());
    // Resumed, not restarted: one run, in which the interrupted scenario was started twice.
    let part = fs::read_dir(out.join(format!("part-{lost}"))).unwrap();
    let runs = part.filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_dir());
    assert_eq!(runs.count(), 1);
    let [started, ended] = ["plan_started", "plan_ended"].map(|kind| events(&journal(lost), kind));
    assert!(
        started == ended || started == ended + 1,
        "{started} {ended}"
    );
    let single = cluster.path().join("single");
    tdxlab!("run", "--host", "soft", "--quiet", "--out", &single)
        .args(SCENARIOS)
        .assert()
        .success();
    let one = timeless(report_of(&single.join("latest")));
    let many = timeless(report_of(&merged));
    assert_eq!(one.scenarios.len(), many.scenarios.len());
    for (one, many) in one.scenarios.iter().zip(&many.scenarios) {
        assert_eq!(one, many);
    }
    assert_eq!(one, many);
    let parts = fs::read_dir(&out).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("part-")
    });
    assert_eq!(parts.count(), SHARDS);
}
