//! The commands in a Markdown document that a test is to run.

/// The fence that marks them: `sh` for the reader's highlighting, `test` for us.
const FENCE: &str = "```sh test";

/// One block of commands.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    /// The line of its fence, counted from 1.
    pub line: usize,
    /// The commands.
    pub script: String,
}

/// All blocks fenced as `sh test`, in order.
#[must_use]
pub fn blocks(markdown: &str) -> Vec<Block> {
    fenced(markdown, |fence| fence == FENCE).into_iter().map(|(_, block)| block).collect()
}

/// The steps of a guide: who does each, and what. `sh root`, `sh user` and `sh client` fence them.
#[must_use]
pub fn steps(markdown: &str) -> Vec<(String, Block)> {
    let whose =
        |fence: &str| ["root", "user", "client"].into_iter().find(|who| fence == format!("```sh {who}"));
    let steps = fenced(markdown, |fence| whose(fence).is_some());
    steps.into_iter().map(|(fence, block)| (fence.replace("```sh ", ""), block)).collect()
}

/// The blocks whose fence is a `wanted` one, with that.
fn fenced(markdown: &str, wanted: impl Fn(&str) -> bool) -> Vec<(String, Block)> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let fence = line.trim();
        if wanted(fence) {
            let commands = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
            let script = commands.collect::<Vec<_>>().join("\n");
            blocks.push((fence.to_owned(), Block { line: number + 1, script }));
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_marked_blocks_are_taken() {
        let text = "a\n```sh\nrm x\n```\n```sh test\ncargo xtask build\necho\n```\n";
        let expected = Block { line: 5, script: "cargo xtask build\necho".to_owned() };
        assert_eq!(blocks(text), [expected]);
    }

    #[test]
    fn a_guide_s_steps_tell_who_does_them() {
        let text = "```sh root\na\n```\n```sh\nb\n```\n```sh user\nc\n```\n";
        let who: Vec<_> =
            steps(text).into_iter().map(|(who, block)| format!("{who}: {}", block.script)).collect();
        assert_eq!(who, ["root: a", "user: c"]);
    }
}
