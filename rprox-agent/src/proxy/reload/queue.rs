//! Reloads that are asked for while one runs.

#![forbid(unsafe_code)]

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Reloader;
use crate::proxy::run::watcher::Watched;
use crate::proxy::worker::Shared;

/// Whom to tell how it went.
pub type Answer = oneshot::Sender<Result<(), String>>;

/// One reload runs at a time, in the background. Whoever asks meanwhile gets one that begins later and so sees what has
/// changed since, and which is one for all of them.
pub struct Queue {
    shared: Arc<Shared>,
    reloader: Arc<Reloader>,
    running: Option<oneshot::Receiver<Done>>,
    /// Of those that `running` is for.
    answers: Vec<Answer>,
    /// Of those that the next one is for, if there is to be one.
    next: Option<Vec<Answer>>,
}

/// What a reload came to.
struct Done {
    result: Result<(), String>,
    watched: Vec<Watched>,
}

impl Queue {
    /// Nothing is asked for.
    #[must_use]
    pub fn new(shared: Arc<Shared>, reloader: Reloader) -> Self {
        Self { shared, reloader: Arc::new(reloader), running: None, answers: Vec::new(), next: None }
    }

    /// The files to watch for changes now.
    #[must_use]
    pub fn watched(&self) -> Vec<Watched> {
        self.reloader.watched()
    }

    /// Asks for a reload that begins from now on.
    pub fn ask(&mut self, answer: Option<Answer>) {
        if self.running.is_some() {
            self.next.get_or_insert_default().extend(answer);
        } else {
            self.begin(answer.into_iter().collect());
        }
    }

    fn begin(&mut self, answers: Vec<Answer>) {
        let reloader = Arc::clone(&self.reloader);
        self.answers = answers;
        self.running = Some(self.shared.background.run(move || {
            let result = reloader.reload().map_err(|error| error.to_string());
            Done { result, watched: reloader.watched() }
        }));
    }

    /// Waits until a reload has come to an end, for ever where none is asked for. Tells who asked, and returns the files to
    /// watch from then on. The wait can be broken off and taken up again.
    pub async fn done(&mut self) -> Vec<Watched> {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let done = running.await.unwrap_or_else(|_| Done {
            result: Err("an internal error, see the log: please report it".to_owned()),
            watched: self.reloader.watched(),
        });
        self.running = None;
        for answer in self.answers.drain(..) {
            let _ = answer.send(done.result.clone());
        }
        if let Some(answers) = self.next.take() {
            self.begin(answers);
        }
        done.watched
    }
}
