# Sourced by a script after its defaults: `--some-option value` and `--some-option=value` set the variable some_option.
#   stage=0; nj=4; compress=false
#   . tools/parse_options.sh
# Only a variable that has a default is an option. A default of true or false admits nothing else. --help prints the
# comment at the head of the script. What is no option is left in the positional parameters. Any mistake is one line
# on stderr and exit status 1.

_options_fail() { echo "error: $(basename "$0"): $*" >&2; exit 1; }

# The variable of `--some-option` or `--some-option=...`, where it has a default. Lower case only: none sets PATH.
_options_name() {
    local name=${1#--}
    name=${name%%=*}
    name=${name//-/_}
    [[ $1 == --* && $name =~ ^[a-z][a-z0-9_]*$ && -n ${!name+defined} ]] && echo "$name"
}

while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help)
            [ -f "$0" ] && _script=$0 || _script=$(basename "$0") # a script that has gone to its own folder
            awk 'NR == 1 && /^#!/ { next } !/^#/ { exit } { sub(/^# ?/, ""); print }' "$_script"
            exit ;;
        --) shift; break ;;
        -?*) _option=${1%%=*} ;;
        *) break ;;
    esac
    _name=$(_options_name "$1") || _options_fail "unknown option $_option (--help lists them)"
    if [[ $1 == *=* ]]; then
        _value=${1#*=}
        shift
    else
        # Another option is no value; --train-args "--debug" is one.
        [ $# -ge 2 ] && ! _options_name "$2" >/dev/null || _options_fail "$_option needs a value"
        _value=$2
        shift 2
    fi
    if [[ ${!_name} =~ ^(true|false)$ && ! $_value =~ ^(true|false)$ ]]; then
        _options_fail "$_option takes true or false, not '$_value'"
    fi
    printf -v "$_name" '%s' "$_value"
done
unset _option _name _value
