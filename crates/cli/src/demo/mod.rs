//! `anabranch demo`: a store, the service, two editors on real connections, and a SQL program, all writing
//! at once while apart; then everything is compared, byte for byte.

mod editor;
mod pipeline;
mod plan;
mod report;
mod script;
mod sight;
mod verify;
mod world;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anabranch_protocol::limits::DRIFT_MAX_MS;
use anabranch_service::{Service, hub::HubConfig};
use anabranch_shape::schema::Schema;
use anabranch_store::Store;

use self::{
    editor::Editor,
    plan::{Plan, PlannedShape, Side},
    report::{Report, Stopwatch},
    sight::Sight,
    world::World,
};
use crate::{args::DemoArgs, failure::Failure};

/// Runs the demo; the exit code tells whether everything ended the same everywhere.
pub(crate) async fn run(args: DemoArgs, json: bool) -> Result<ExitCode, Failure> {
    let mut watch = Stopwatch::start();
    let sql = args.sql.as_deref().map(script::read).transpose()?;
    let folder = Folder::make(args.keep)?;
    let world = World::start(args.store, sql.as_deref(), &folder.path)?;
    watch.lap("store");
    let store = world.open_store().await?;
    let config = HubConfig {
        drift_max_ms: DRIFT_MAX_MS,
        token: None,
        shapes: BTreeMap::new(),
        allow_spelled_shapes: true,
    };
    let service = Service::start(
        Arc::clone(&store),
        config,
        SocketAddr::from(([127, 0, 0, 1], 0)),
    )
    .await
    .map_err(Failure::of)?;
    let schema = store.schema().await.map_err(Failure::of)?;
    watch.lap("service");
    let shapes = if sql.is_some() {
        script::shapes(&schema)?
    } else {
        pipeline::shapes()
    };
    let mut stage = Stage {
        editors: [
            Editor::make("Ann", &folder.path)?,
            Editor::make("Bob", &folder.path)?,
        ],
        world,
        store,
        schema,
        shapes,
    };
    let url = service.url();
    let report = stage.perform(&url, sql.is_some(), &mut watch, json).await;
    for editor in &mut stage.editors {
        editor.disconnect().await?;
    }
    service.stop().await;
    let report = report?;
    report.print(
        &watch,
        folder.is_kept.then_some(folder.path.as_path()),
        json,
    );
    Ok(if report.converged() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Everything that takes part.
struct Stage {
    world: World,
    store: Arc<dyn Store>,
    schema: Arc<Schema>,
    shapes: Vec<PlannedShape>,
    editors: [Editor; 2],
}

impl Stage {
    /// Syncs, parts, writes on all sides, syncs again.
    async fn perform(
        &mut self,
        url: &str,
        is_script: bool,
        watch: &mut Stopwatch,
        quiet: bool,
    ) -> Result<Report, Failure> {
        for editor in &mut self.editors {
            editor.subscribe(&self.shapes)?;
            editor.connect(url).await?;
        }
        let differences = self.converge().await?;
        watch.lap("first_sync");
        if !differences.is_empty() {
            return Ok(Report::apart(
                &self.world,
                self.schema.tables.len(),
                differences,
            ));
        }
        for editor in &mut self.editors {
            editor.disconnect().await?;
        }
        let plan = if is_script {
            script::plan(&self.schema, &mut self.editors[0])?
        } else {
            pipeline::plan()
        };
        let mut sights = Sight::before(&plan, self).await?;
        self.carry_out(&plan)?;
        for sight in &mut sights {
            sight.look_on_each_side(self).await?;
        }
        watch.lap("offline_edits");
        let mut pushed = 0;
        for editor in &mut self.editors {
            pushed += editor.pending()?;
            editor.connect(url).await?;
        }
        let differences = self.converge().await?;
        watch.lap("second_sync");
        for sight in &mut sights {
            sight.look_at_the_end(self).await?;
        }
        let report = Report::of(self, &plan, sights, pushed, differences)?;
        watch.lap("report");
        if !quiet {
            report.tell(&plan, url);
        }
        Ok(report)
    }

    fn carry_out(&mut self, plan: &Plan) -> Result<(), Failure> {
        for edit in &plan.edits {
            match edit.side {
                Side::Ann => self.editors[0].write(&edit.sql)?,
                Side::Bob => self.editors[1].write(&edit.sql)?,
                Side::Program => self.world.run_sql(&edit.sql)?,
            }
            // So that the order of the edits is the order of their stamps, and the story is the same
            // every time.
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Waits until all sides hold the same; the differences that are left when patience ends.
    async fn converge(&mut self) -> Result<Vec<String>, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut differences = Vec::new();
            for editor in &self.editors {
                differences.extend(editor.unsettled());
            }
            if differences.is_empty() {
                differences = verify::differences(self).await?;
            }
            if differences.is_empty() || Instant::now() > deadline {
                return Ok(differences);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Where the replicas lie: a temporary folder, unless they are to be kept.
struct Folder {
    path: PathBuf,
    is_kept: bool,
    _temporary: Option<tempfile::TempDir>,
}

impl Folder {
    fn make(keep: Option<PathBuf>) -> Result<Self, Failure> {
        let failed =
            |error| Failure::new(format!("cannot make a folder for the replicas: {error}"));
        if let Some(path) = keep {
            std::fs::create_dir_all(&path).map_err(failed)?;
            return Ok(Self {
                path,
                is_kept: true,
                _temporary: None,
            });
        }
        let temporary = tempfile::Builder::new().prefix("anabranch-demo-").tempdir();
        let temporary = temporary.map_err(failed)?;
        Ok(Self {
            path: temporary.path().to_owned(),
            is_kept: false,
            _temporary: Some(temporary),
        })
    }
}

/// Far longer than it takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);
