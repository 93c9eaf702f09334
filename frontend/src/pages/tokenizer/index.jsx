export default function Page() {
  return <h1>Tokenizer</h1>;
}
