# Every target installs what it needs by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test levels lint bench claims fuzz mutants audit lock sbom clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt hatch_build.py $(wildcard src/sfumato/fields/*/requires.txt)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[captions,docking,failure,images,policy,protein,series,tables,text,video,weather,serve,plots,track,features,dev]'
	touch $@

demo: install
	$(BIN)/sfumato demo

# tests run with one thread each: two processes that spin on two cores slow each other down tenfold
test: install
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# stands in for other processors and numbers of threads; WHAT=all: every test; WHAT=seeds: networks from ten other seeds
levels: install
	.ci/levels $(WHAT)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# the five tables of docs/benchmarks.md, some hours; the peers are installed by the benchmarks themselves
# DATA=PATH: quality per second on your own folder of pictures too
bench: install
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.saving
	$(BIN)/python -m benchmarks.overhead_peers
	$(BIN)/python -m benchmarks.solvers
	$(BIN)/python -m benchmarks.seconds
	$(BIN)/python -m benchmarks.seconds --seconds 600 --seeds 0 --libraries sfumato diffusers --samplers benchmarks/results/seconds.json --folder runs/seconds_600
	$(if $(DATA),$(BIN)/python -m benchmarks.seconds --data $(DATA) --folder runs/seconds_data)
	test ! -d ../shared/data/clothing64 || $(BIN)/python -m benchmarks.seconds --data ../shared/data/clothing64 --side 64 --samples 24 --samplers benchmarks/results/seconds.json --folder runs/seconds_clothing64
	$(BIN)/python -m benchmarks.calls
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.report

# what the README and the other pages in docs/ claim; the policies need the recordings of Push-T: PUSHT=PATH, the weather ERA-Interim
# of Europe: ERA=PATH
claims: install
	$(BIN)/python -m benchmarks.recipe
	$(BIN)/python -m benchmarks.defaults train
	$(BIN)/python -m benchmarks.defaults measure
	$(BIN)/python -m benchmarks.defaults report
	$(BIN)/python -m benchmarks.four_worlds
	$(BIN)/python -m benchmarks.rare_event
	$(BIN)/python -m benchmarks.failure
	$(BIN)/python -m benchmarks.any_steps board
	$(BIN)/python -m benchmarks.any_steps pictures
	$(BIN)/python -m benchmarks.text --seconds 1200 --out runs/text --run runs/text/run
	$(BIN)/python -m benchmarks.text_repair runs/text/run --out runs/text/repair.json
	$(BIN)/python -m benchmarks.text_modes runs/text/run --out runs/text/modes.json
	$(BIN)/python -m benchmarks.twin runs/text/run --out runs/text
	$(BIN)/python -m benchmarks.policy meta_world
	$(if $(PUSHT),$(BIN)/python -m benchmarks.policy push_t --data $(PUSHT))
	$(if $(ERA),$(BIN)/python -m benchmarks.weather $(ERA) all)

# 20,000 damaged files through every reader; SEED=N for others
fuzz: install
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --number 20000 --seed $(or $(SEED),0)

# how many small changes of FILES (those that differ from BASE) their tests notice; mutmut has an environment of its own, which
# sees the packages of the other
mutants: install
	test -x .venv-mutants/bin/python || $(PYTHON) -m venv .venv-mutants
	.venv-mutants/bin/python -m pip install --quiet --disable-pip-version-check mutmut==3.8.1
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" > "$$(.venv-mutants/bin/python -c "import site; print(site.getsitepackages()[0])")/base.pth"
	.venv-mutants/bin/python .ci/mutants.py $(FILES) $(if $(BASE),--base $(BASE)) $(if $(MOST),--most $(MOST)) $(if $(LEAST),--least $(LEAST))

# known weaknesses of the pinned versions, by public advisory lists; passes, and says so, where these do not answer
audit:
	test -x .venv-audit/bin/python || $(PYTHON) -m venv .venv-audit
	@if ! .venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; then \
		echo "audit: SKIPPED, pip-audit cannot be installed here"; exit 0; fi; \
	.venv-audit/bin/python -m pip_audit -r constraints.txt --no-deps --disable-pip --timeout 20 > .venv-audit/found 2>&1; code=$$?; \
	grep -v "could not be audited" .venv-audit/found | tail -n 40; \
	if [ $$code -ne 0 ] && grep -qiE "connect|timed? ?out|resolve|unreachable|HTTPError|ServiceError|SSLError|RetryError" .venv-audit/found; then \
		echo "audit: SKIPPED, the advisory lists do not answer"; exit 0; fi; \
	missed=$$(grep -c "could not be audited" .venv-audit/found); \
	echo "audit: $$missed of $$(grep -c == constraints.txt) packages could not be looked up"; \
	if [ $$missed -gt 0 ]; then echo "audit: NOT AN ALL-CLEAR for these"; fi; exit $$code

# locked.txt: constraints.txt with the hashes of every file of these versions
lock:
	test -x .venv-audit/bin/python || $(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-audit/bin/uv pip compile --quiet --no-header --generate-hashes --no-deps --python-version 3.11 constraints.txt -o locked.txt

# what is installed, as CycloneDX JSON
sbom: install
	mkdir -p dist
	$(BIN)/python .ci/sbom.py > dist/sbom.json

clean:
	rm -rf $(VENV) .venv-peers .venv-peers-tables .venv-audit .venv-mutants .mutants runs samples
