class Microgpt < Formula
  desc "Train small GPTs on your own text, then generate, chat and export"
  homepage "https://github.com/example/microgpt"
  version "1.2.3"
  license "MIT"

  on_macos do
    on_arm do
      url "https://github.com/example/microgpt/releases/download/v1.2.3/microgpt-1.2.3-aarch64-apple-darwin.tar.gz"
      sha256 "1111111111111111111111111111111111111111111111111111111111111111"
    end
    on_intel do
      url "https://github.com/example/microgpt/releases/download/v1.2.3/microgpt-1.2.3-x86_64-apple-darwin.tar.gz"
      sha256 "2222222222222222222222222222222222222222222222222222222222222222"
    end
  end

  on_linux do
    on_arm do
      url "https://github.com/example/microgpt/releases/download/v1.2.3/microgpt-1.2.3-aarch64-unknown-linux-gnu.tar.gz"
      sha256 "4444444444444444444444444444444444444444444444444444444444444444"
    end
    on_intel do
      url "https://github.com/example/microgpt/releases/download/v1.2.3/microgpt-1.2.3-x86_64-unknown-linux-gnu.tar.gz"
      sha256 "3333333333333333333333333333333333333333333333333333333333333333"
    end
  end

  resource "default-chat-model" do
    url "https://github.com/example/microgpt/releases/download/v1.2.3/default-chat-model-1.2.3.tar.gz"
    sha256 "6666666666666666666666666666666666666666666666666666666666666666"
  end

  def install
    bin.install "microgpt"
    resource("default-chat-model").stage do
      (share/"microgpt/default-chat-model").install Dir["*"]
    end
    generate_completions_from_executable(bin/"microgpt", "completions")
  end

  test do
    (testpath/"names.txt").write(%w[anna bella carla dora emma frida greta hanna].join("\n"))
    small = %w[--steps 5 --vocab-size 260 --n-embd 16 --n-layer 1 --block-size 16]
    system bin/"microgpt", "train", "--input", "names.txt", "--output", "model", *small
    assert_match "sample  1:", shell_output("#{bin}/microgpt generate --model-dir model --num-samples 1")
  end
end
