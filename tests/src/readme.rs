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
    let mut blocks = Vec::new();
    let mut lines = markdown.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line.trim() == FENCE {
            let commands = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
            blocks.push(Block { line: number + 1, script: commands.collect::<Vec<_>>().join("\n") });
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
}
